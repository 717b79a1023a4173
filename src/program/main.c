/* program/main.c: the program moonbus: signals, and the host's command line.
 * Must not know Lua or Kafka: moonbus.h is all it includes of the project, and
 * program/supervisor.h. Called by the user. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "moonbus.h"
#include "program/supervisor.h"

static mb_host *volatile host;         /* NULL before it is made, and on its way out */
static const mb_worker *self;          /* NULL without a supervisor */
static volatile sig_atomic_t asked;    /* for an end */
static volatile sig_atomic_t insisted; /* a further signal does not ask */

/* The first signal asks for an orderly end, a second one ends at once. SIGHUP does not count: a
 * terminal that is closed sends it more than once, and beside others. Nor does a worker count: its
 * supervisor does, and all of a group may be sent what the supervisor passes on. */
static void on_signal(int number) {
  if (self) {
    mb_supervisor_mourn(self);
  } else if (insisted && number != SIGHUP) {
    signal(number, SIG_DFL);
    raise(number); /* comes when this function returns */
  }
  asked = 1;
  if (number != SIGHUP) insisted = 1;
  if (host) mb_host_interrupt(host);
}

/* Whatever the process that started this one blocked. A pipe without a reader is an error of the
 * write, not the end. */
static void take_signals(void) {
  static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
  struct sigaction action = {.sa_handler = on_signal};
  sigset_t stops;
  mb_stop_signals(&stops);
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    if (sigismember(&stops, numbers[i])) sigaction(numbers[i], &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigprocmask(SIG_UNBLOCK, &stops, NULL);
}

/* A standard stream that is closed would be the next file or socket, and what is printed would go
 * there: its place is taken by what can be neither read nor written. */
static void hold_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd ? O_RDONLY : O_WRONLY) != fd) _exit(70);
}

/* true if all that was printed was written. A reader that closed the pipe (head, less) needs no
   more. */
static bool printed_all(void) {
  struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
  if (!fflush(stdout) && !ferror(stdout)) return true;
  if (poll(&out, 1, 0) == 1 && out.revents & POLLERR) return true;
  mb_log_program(MB_LOG_ERROR, "moonbus: ",
                 "EIO: not all that was printed could be written to stdout; is it closed, or its "
                 "disk full?");
  return false;
}

static int run_host(int argc, char **argv, const mb_worker *worker) {
  char why[256];
  self = worker;
  take_signals();
  host = mb_host_new(why, sizeof why);
  if (!host) {
    mb_log_program(MB_LOG_ERROR, "moonbus: ", why);
    return 70;
  }
  if (asked) mb_host_interrupt(host);
  if (worker) mb_host_watch(host, worker->watch, worker->number, worker->instance);
  int code = mb_host_main(host, argc, argv);
  mb_host *ended = host;
  host = NULL;
  mb_host_free(ended);
  /* The supervisor would start a worker again for it. */
  if (!printed_all() && !code && !worker) code = 6;
  return code;
}

/* What log_format is, as far as flags and environment say; a script may say so later. */
static bool asks_for_json(int argc, char **argv) {
  static const char *const begins[] = {"--log-format=", "log_format=", "--set=log_format="};
  const char *format = getenv("MOONBUS_LOG_FORMAT");
  for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--log-format") == 0 && i + 1 < argc) format = argv[i + 1];
    for (size_t k = 0; k < sizeof begins / sizeof *begins; k++)
      if (strncmp(argv[i], begins[k], strlen(begins[k])) == 0) format = argv[i] + strlen(begins[k]);
  }
  return format && strcmp(format, "json") == 0;
}

int main(int argc, char **argv) {
  hold_streams();
  if (asks_for_json(argc, argv)) mb_log_program_json();
  if (argc > 2 && strcmp(argv[1], "run") == 0) {
    int workers = mb_supervisor_workers(argc, argv);
    if (workers) return mb_supervisor_run(workers, argc, argv, run_host);
  }
  return run_host(argc, argv, NULL);
}
