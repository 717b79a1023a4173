/* main.c: the program moonbus: signals, and the host's command line.
 * Must not know Lua or Kafka: moonbus.h is all it includes of the project, and supervisor.h.
 * Called by the user. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "moonbus.h"
#include "supervisor.h"

static mb_host *volatile host; /* NULL once it is on its way out: a signal comes at any time */
static const mb_worker *self;  /* NULL without a supervisor */

static void on_signal(int number) {
  (void)number;
  if (self) mb_supervisor_mourn(self);
  if (host) mb_host_interrupt(host);
}

/* A standard stream that is closed would be the next file or socket, and what is printed would go
 * there: its place is taken by what can be neither read nor written. */
static void hold_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd) _exit(70);
}

/* Whether all that was printed was written. A reader that went away (head, less) wanted no more. */
static bool printed_all(void) {
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  if (!fflush(stdout) && !ferror(stdout)) return true;
  if (poll(&out, 1, 0) == 1 && out.revents & POLLERR) return true;
  fprintf(stderr, "moonbus: EIO: not all that was printed could be written to stdout; is it "
                  "closed, or its disk full?\n");
  return false;
}

static int run_host(int argc, char **argv, const mb_worker *worker) {
  char why[256];
  host = mb_host_new(why, sizeof why);
  if (!host) {
    fprintf(stderr, "moonbus: %s\n", why);
    return 70;
  }
  self = worker;
  if (worker) mb_host_watch(host, worker->watch, worker->number, worker->instance);
  /* The first signal asks for an orderly end, a second one does not ask. */
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  int code = mb_host_main(host, argc, argv);
  mb_host *ended = host;
  host = NULL;
  mb_host_free(ended);
  /* The supervisor would start a worker again for it. */
  if (!printed_all() && !code && !worker) code = 6;
  return code;
}

int main(int argc, char **argv) {
  hold_streams();
  if (argc > 2 && strcmp(argv[1], "run") == 0) {
    int workers = mb_supervisor_wanted(argc, argv);
    if (workers) return mb_supervisor_run(workers, argc, argv, run_host);
  }
  return run_host(argc, argv, NULL);
}
