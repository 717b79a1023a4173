/* program/supervisor.h: worker processes for one script, watched. */
#ifndef MB_SUPERVISOR_H
#define MB_SUPERVISOR_H

#include <signal.h>
#include <sys/types.h>

#include "moonbus.h"

/* What --workers of a `run` command line says; 0 when it says nothing or nothing sensible (the
 * command line's own parser reports that). */
int mb_supervisor_workers(int argc, char **argv);

/* The signals that ask for an end: SIGINT, SIGTERM, SIGQUIT, and SIGHUP, unless the process that
 * started this one ignores it (nohup). */
void mb_stop_signals(sigset_t *signals);

/* Handed to a worker; valid for its life. */
typedef struct mb_worker {
  int number; /* from 0 */
  mb_watch *watch;
  const char *instance; /* names the supervisor among others of this host */
  pid_t supervisor;
} mb_worker;

/* In a worker's signal handler: if the supervisor is gone, no process is left to kill a worker
 * that does not end, so the kernel is asked to. */
void mb_supervisor_mourn(const mb_worker *worker);

typedef int (*mb_work_fn)(int argc, char **argv, const mb_worker *worker);

/* Fork the workers (and, with --embedded, a process for their broker); replace those that crash,
 * run past handler_timeout_ms or take too much memory; pass on what asks for an end; wait for all.
 * work    run in each worker with the command line it shall obey
 * returns the exit code of the whole: 0 when every worker ended with 0 */
int mb_supervisor_run(int workers, int argc, char **argv, mb_work_fn work);

#endif
