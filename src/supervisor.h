/* supervisor.h: several worker processes for one script. */
#ifndef MB_SUPERVISOR_H
#define MB_SUPERVISOR_H

/* What --workers of a `run` command line says; 1 when it says nothing or nothing sensible (the
 * command line's own parser reports that). */
int mb_supervisor_wanted(int argc, char **argv);

/* Fork the workers (and, with --embedded, a process for their broker), restart those that crash,
 * pass SIGINT and SIGTERM on, wait for all. work    run in each worker with the command line it
 * shall obey returns the exit code of the whole: 0 when every worker ended with 0 */
int mb_supervisor_run(int workers, int argc, char **argv, int (*work)(int argc, char **argv));

#endif
