/* supervisor.c: worker processes: started, watched, restarted with backoff, stopped.
 * Must not hold a Kafka client or a Lua state: it forks before either exists.
 * Called by main.c for `moonbus run FILE --workers N`. */
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "moonbus.h"

#define WORKERS_MAX    256
#define STEADY_MS      10000 /* a worker that lived this long starts its backoff anew */
#define BACKOFF_MAX_MS 30000

typedef struct worker {
  pid_t pid; /* 0 = not running */
  int64_t started_ms, restart_ms;
  int backoff_ms;
  bool done; /* ended by itself, with an exit code of its own choice */
} worker;

typedef struct supervisor {
  worker *workers;
  int count;
  int argc;
  char **argv;
  int (*work)(int argc, char **argv);
  pid_t broker;
  bool stopping;
  int code;
} supervisor;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int mb_supervisor_wanted(int argc, char **argv) {
  int workers = 1;
  for (int i = 2; i < argc; i++) {
    const char *text = NULL;
    if (strcmp(argv[i], "--workers") == 0 && i + 1 < argc)
      text = argv[++i];
    else if (strncmp(argv[i], "--workers=", 10) == 0)
      text = argv[i] + 10;
    if (!text) continue;
    char *end;
    long n = strtol(text, &end, 10);
    if (*text && !*end && n >= 1 && n <= WORKERS_MAX) workers = (int)n;
  }
  return workers;
}

/* The children must see signals as usual, and go when the supervisor dies without a word. */
static void become_child(pid_t parent, const sigset_t *signals) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  sigprocmask(SIG_UNBLOCK, signals, NULL);
}

static void watched(sigset_t *signals) {
  sigemptyset(signals);
  sigaddset(signals, SIGINT);
  sigaddset(signals, SIGTERM);
  sigaddset(signals, SIGHUP);
  sigaddset(signals, SIGCHLD);
}

static void start(supervisor *s, int i) {
  worker *w = &s->workers[i];
  sigset_t signals;
  watched(&signals);
  fflush(NULL);
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) {
    w->restart_ms = now_ms() + 1000;
    return;
  }
  if (pid == 0) {
    char number[16];
    become_child(parent, &signals);
    snprintf(number, sizeof number, "%d", i + 1);
    setenv("MOONBUS_WORKER", number, 1);
    exit(s->work(s->argc, s->argv));
  }
  w->pid = pid;
  w->started_ms = now_ms();
}

/* A second request does not ask. */
static void stop_all(supervisor *s, int number) {
  if (s->stopping) number = SIGKILL;
  s->stopping = true;
  for (int i = 0; i < s->count; i++)
    if (s->workers[i].pid) kill(s->workers[i].pid, number);
}

/* An exit code is a worker's own word (a wrong script, a finished --until-idle) and ends it; a
 * signal is a crash, and another takes its place. */
static void ended(supervisor *s, worker *w, int status) {
  int64_t lived_ms = now_ms() - w->started_ms;
  w->pid = 0;
  if (WIFEXITED(status)) {
    w->done = true;
    if (WEXITSTATUS(status) && !s->code) s->code = WEXITSTATUS(status);
    if (WEXITSTATUS(status) && !s->stopping) stop_all(s, SIGTERM);
    return;
  }
  if (s->stopping) {
    w->done = true;
    if (!s->code) s->code = 128 + WTERMSIG(status);
    return;
  }
  w->backoff_ms = lived_ms > STEADY_MS || !w->backoff_ms ? 250 : w->backoff_ms * 2;
  if (w->backoff_ms > BACKOFF_MAX_MS) w->backoff_ms = BACKOFF_MAX_MS;
  w->restart_ms = now_ms() + w->backoff_ms;
  fprintf(stderr, "moonbus: worker %d was killed by signal %d (%s); a new one in %d ms\n",
          (int)(w - s->workers) + 1, WTERMSIG(status), strsignal(WTERMSIG(status)), w->backoff_ms);
}

static void reap(supervisor *s) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == s->broker) {
      s->broker = 0;
      if (s->stopping) continue;
      fprintf(stderr, "moonbus: the embedded broker ended\n");
      s->code = 1;
      stop_all(s, SIGTERM);
    }
    for (int i = 0; i < s->count; i++)
      if (s->workers[i].pid == pid) ended(s, &s->workers[i], status);
  }
}

/* Milliseconds until the next restart; -1 when there is none. */
static int64_t restart_due(supervisor *s) {
  int64_t next = -1, now = now_ms();
  for (int i = 0; i < s->count; i++) {
    worker *w = &s->workers[i];
    if (w->pid || w->done) continue;
    if (s->stopping) {
      w->done = true;
      continue;
    }
    if (w->restart_ms <= now)
      start(s, i);
    else if (next < 0 || w->restart_ms - now < next)
      next = w->restart_ms - now;
  }
  return next;
}

static bool all_done(const supervisor *s) {
  for (int i = 0; i < s->count; i++)
    if (!s->workers[i].done) return false;
  return true;
}

static void supervise(supervisor *s, const sigset_t *signals) {
  for (;;) {
    int64_t due_ms = restart_due(s);
    if (all_done(s)) return;
    struct timespec wait = {.tv_sec = due_ms < 0 ? 1 : due_ms / 1000,
                            .tv_nsec = due_ms < 0 ? 0 : due_ms % 1000 * 1000000};
    int number = sigtimedwait(signals, NULL, &wait);
    if (number == SIGINT || number == SIGTERM) stop_all(s, SIGTERM);
    reap(s);
  }
}

/* A process for the embedded broker: the workers must share one, and a process that will fork must
 * not have threads. Writes its address into the pipe, then waits for the end. */
static pid_t start_broker(char *address, size_t size, const sigset_t *signals) {
  int ends[2];
  if (pipe(ends)) return -1;
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    char why[256];
    int number;
    sigset_t stop;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    close(ends[0]);
    mb_broker *broker = mb_broker_new(why, sizeof why);
    const char *text = broker ? mb_broker_address(broker) : "";
    if (!broker) fprintf(stderr, "moonbus: %s\n", why);
    if (write(ends[1], text, strlen(text)) < 0) _exit(1);
    close(ends[1]);
    sigemptyset(&stop);
    sigaddset(&stop, SIGUSR1);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    if (broker)
      sigwait(&stop, &number); /* the supervisor's word; SIGINT and SIGTERM stay blocked */
    _exit(0);
  }
  (void)signals;
  close(ends[1]);
  ssize_t got = pid > 0 ? read(ends[0], address, size - 1) : -1;
  close(ends[0]);
  if (got <= 0) return -1;
  address[got] = 0;
  return pid;
}

/* The workers' command line: --embedded gives way to the address of the one broker. */
static char **worker_argv(int argc, char **argv, int *count, char *address) {
  char **to = calloc((size_t)argc + 3, sizeof *to);
  int n = 0;
  if (!to) return NULL;
  for (int i = 0; i < argc; i++)
    if (!address || strcmp(argv[i], "--embedded") != 0) to[n++] = argv[i];
  if (address) {
    to[n++] = (char *)(uintptr_t) "--bootstrap-servers";
    to[n++] = address;
  }
  *count = n;
  return to;
}

int mb_supervisor_run(int workers, int argc, char **argv, int (*work)(int argc, char **argv)) {
  char address[128];
  sigset_t signals;
  bool embedded = false;
  supervisor s = {.count = workers, .work = work};
  watched(&signals);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  for (int i = 2; i < argc; i++)
    if (strcmp(argv[i], "--embedded") == 0) embedded = true;
  if (embedded && (s.broker = start_broker(address, sizeof address, &signals)) < 0) {
    fprintf(stderr, "moonbus: the embedded broker cannot start\n");
    return 1;
  }
  s.workers = calloc((size_t)workers, sizeof *s.workers);
  s.argv = worker_argv(argc, argv, &s.argc, embedded ? address : NULL);
  if (s.workers && s.argv) {
    for (int i = 0; i < workers; i++) start(&s, i);
    supervise(&s, &signals);
  } else {
    fprintf(stderr, "moonbus: out of memory\n");
    s.code = 1;
  }
  if (s.broker > 0) {
    kill(s.broker, SIGUSR1);
    waitpid(s.broker, NULL, 0);
  }
  free(s.workers);
  free(s.argv);
  return s.code;
}
