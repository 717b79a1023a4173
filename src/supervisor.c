/* supervisor.c: worker processes: started, watched, restarted with backoff, stopped.
 * Must not hold a Kafka client or a Lua state: it forks before either exists.
 * Called by main.c for `moonbus run FILE --workers N`. */
#include "supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "moonbus.h"

#define WORKERS_MAX       256
#define STEADY_MS         10000 /* a worker that lived this long starts its backoff anew */
#define BACKOFF_MAX_MS    30000
#define LOOK_MS           100  /* between looks at what workers have in hand */
#define SHUTDOWN_GRACE_MS 2000 /* past shutdown_timeout, before SIGKILL */

typedef struct worker {
  pid_t pid; /* 0 = not running */
  int64_t started_ms, restart_ms;
  int backoff_ms;
  bool replaced;      /* this is not the first of its number */
  const char *killed; /* why we killed it; NULL = we did not */
  bool red;           /* told so */
  bool done;          /* ended by itself, with an exit code of its own choice */
} worker;

typedef struct supervisor {
  worker *workers;
  int count;
  int argc;
  char **argv;
  mb_work_fn work;
  mb_watch *watch;
  char instance[96];
  int instance_fd; /* holds the name */
  pid_t broker;
  bool stopping;
  int64_t kill_ms; /* when workers that still run are killed; set once stopping */
  int code;
} supervisor;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Where the flags end: at "--", or at the end. */
static int flags_end(int argc, char **argv) {
  int i = 2;
  while (i < argc && strcmp(argv[i], "--") != 0) i++;
  return i;
}

int mb_supervisor_wanted(int argc, char **argv) {
  int workers = 0, flags = flags_end(argc, argv);
  for (int i = 2; i < flags; i++) {
    const char *text = NULL;
    if (strcmp(argv[i], "--workers") == 0 && i + 1 < flags)
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

void mb_supervisor_mourn(const mb_worker *worker) {
  mb_watch_state state;
  if (getppid() == worker->supervisor) return;
  mb_watch_look(worker->watch, worker->number, &state);
  alarm((unsigned)((state.shutdown_us / 1000 + SHUTDOWN_GRACE_MS + 999) / 1000));
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
    mb_worker worker = {
        .number = i, .watch = s->watch, .instance = s->instance, .supervisor = parent};
    exit(s->work(s->argc, s->argv, &worker));
  }
  w->pid = pid;
  w->replaced = w->started_ms != 0;
  w->killed = NULL;
  w->started_ms = now_ms();
}

/* A second request does not ask. */
static void stop_all(supervisor *s, int number) {
  int64_t longest_ms = 0;
  if (s->stopping) number = SIGKILL;
  s->stopping = true;
  for (int i = 0; i < s->count; i++) {
    mb_watch_state state;
    mb_watch_look(s->watch, i, &state);
    if (state.shutdown_us / 1000 > longest_ms) longest_ms = state.shutdown_us / 1000;
    if (s->workers[i].pid) kill(s->workers[i].pid, number);
  }
  s->kill_ms = now_ms() + longest_ms + SHUTDOWN_GRACE_MS;
}

/* The exit codes whose cause is the broker's, and may pass: it is away, the topic is not there, it
 * refused something. */
static bool is_kafkas(int code) {
  return code >= 4 && code <= 6;
}

/* Returns in how many milliseconds. */
static int start_later(worker *w, bool at_once) {
  w->backoff_ms = at_once || !w->backoff_ms ? 100 : w->backoff_ms * 2;
  if (w->backoff_ms > BACKOFF_MAX_MS) w->backoff_ms = BACKOFF_MAX_MS;
  w->restart_ms = now_ms() + w->backoff_ms;
  return w->backoff_ms;
}

/* An exit code is a worker's own word (a wrong script, a finished --until-idle) and ends it; a
 * signal is a crash, and another takes its place. One that takes a place while the broker is away
 * tries again, as those that run wait for the broker. */
static void ended(supervisor *s, worker *w, int status) {
  int64_t lived_ms = now_ms() - w->started_ms;
  int number = (int)(w - s->workers);
  char in_hand[512];
  w->pid = 0;
  if (WIFEXITED(status) && is_kafkas(WEXITSTATUS(status)) && !s->stopping &&
      (w->replaced || lived_ms > STEADY_MS)) {
    fprintf(stderr, "moonbus: worker %d ended (exit code %d); again in %.1f s\n", number + 1,
            WEXITSTATUS(status), start_later(w, lived_ms > STEADY_MS) / 1e3);
    return;
  }
  if (WIFEXITED(status)) {
    w->done = true;
    if (WEXITSTATUS(status) && !s->code) s->code = WEXITSTATUS(status);
    if (!WEXITSTATUS(status) || s->stopping) return;
    fprintf(stderr, "moonbus: worker %d ended (exit code %d): all end\n", number + 1,
            WEXITSTATUS(status));
    stop_all(s, SIGTERM);
    return;
  }
  const char *reason = w->killed ? w->killed : "worker_crashed";
  bool held = mb_watch_died(s->watch, number, reason, in_hand, sizeof in_hand);
  fprintf(stderr, "moonbus: worker %d died: %s (signal %d, %s)%s%s\n", number + 1, reason,
          WTERMSIG(status), strsignal(WTERMSIG(status)), held ? "; it had in hand " : "",
          held ? in_hand : "");
  if (s->stopping) {
    w->done = true;
    if (!s->code) s->code = 128 + WTERMSIG(status);
    return;
  }
  /* A death with an event in hand has its own limit, max_retries: the next try need not wait long.
   */
  start_later(w, lived_ms > STEADY_MS || held);
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

static int64_t resident_bytes(pid_t pid) {
  char path[64];
  long long pages = 0;
  snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  if (fscanf(file, "%*s %lld", &pages) != 1) pages = 0;
  fclose(file);
  return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* Kill a worker whose handler runs too long or that takes too much memory: nothing less stops
 * compiled code. */
static void look(supervisor *s, int i) {
  worker *w = &s->workers[i];
  mb_watch_state state;
  if (!w->pid || w->killed) return;
  mb_watch_look(s->watch, i, &state);
  if (w->red != (state.health == MB_RED))
    fprintf(stderr, "moonbus: worker %d %s\n", i + 1,
            w->red ? "is no longer red" : "is red: its log says why");
  w->red = state.health == MB_RED;
  int64_t limit_ms = (state.started_us + state.timeout_us) / 1000;
  if (s->stopping && now_ms() > s->kill_ms)
    w->killed = "shutdown_timeout";
  else if (state.started_us && state.timeout_us && now_ms() > limit_ms)
    w->killed = "handler_timeout";
  else if (state.memory_max_bytes && resident_bytes(w->pid) > state.memory_max_bytes)
    w->killed = "out_of_memory";
  if (w->killed) kill(w->pid, SIGKILL);
}

static void supervise(supervisor *s, const sigset_t *signals) {
  for (;;) {
    int64_t due_ms = restart_due(s);
    if (all_done(s)) return;
    for (int i = 0; i < s->count; i++) look(s, i);
    if (due_ms < 0 || due_ms > LOOK_MS) due_ms = LOOK_MS;
    struct timespec wait = {.tv_sec = 0, .tv_nsec = due_ms * 1000000};
    int number = sigtimedwait(signals, NULL, &wait);
    if (number == SIGINT || number == SIGTERM) stop_all(s, SIGTERM);
    reap(s);
  }
}

/* A name that is stable from run to run on this host, so that a restart finds its partitions
 * waiting, and different from that of another supervisor running here. The kernel frees the number
 * with the process, however it ends. */
static void take_instance(supervisor *s) {
  char host[64] = "host";
  gethostname(host, sizeof host - 1);
  s->instance_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  for (int k = 0; k < 64; k++) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "moonbus-%d-%d",
                       (int)getuid(), k);
    snprintf(s->instance, sizeof s->instance, "%s-%d", host, k);
    if (bind(s->instance_fd, (struct sockaddr *)&address,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)) == 0)
      return;
  }
  snprintf(s->instance, sizeof s->instance, "%s-%d", host, (int)getpid());
}

/* A process for the embedded broker: the workers must share one, and a process that will fork must
 * not have threads. Writes its address into the pipe, then waits for the end. */
static pid_t start_broker(char *address, size_t size) {
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
  int n = 0, flags = flags_end(argc, argv);
  if (!to) return NULL;
  for (int i = 0; i < argc; i++) {
    if (address && i == 2) { /* before a "--", behind which everything is a file */
      to[n++] = (char *)(uintptr_t) "--bootstrap-servers";
      to[n++] = address;
    }
    if (!address || i >= flags || strcmp(argv[i], "--embedded") != 0) to[n++] = argv[i];
  }
  *count = n;
  return to;
}

int mb_supervisor_run(int workers, int argc, char **argv, mb_work_fn work) {
  char address[128], why[256] = "out of memory";
  sigset_t signals;
  bool embedded = false, named = false;
  supervisor s = {.count = workers, .work = work};
  watched(&signals);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  for (int i = 2, flags = flags_end(argc, argv); i < flags; i++) {
    if (strcmp(argv[i], "--embedded") == 0) embedded = true;
    if (strncmp(argv[i], "--bootstrap-servers", 19) == 0) named = true;
  }
  embedded = embedded && !named; /* both: the workers say that this cannot be */
  if (embedded && (s.broker = start_broker(address, sizeof address)) < 0) {
    fprintf(stderr, "moonbus: the embedded broker cannot start\n");
    return 1;
  }
  take_instance(&s);
  s.watch = mb_watch_new(workers, why, sizeof why);
  s.workers = calloc((size_t)workers, sizeof *s.workers);
  s.argv = worker_argv(argc, argv, &s.argc, embedded ? address : NULL);
  if (s.workers && s.argv && s.watch) {
    for (int i = 0; i < workers; i++) start(&s, i);
    supervise(&s, &signals);
  } else {
    fprintf(stderr, "moonbus: %s\n", why);
    s.code = 1;
  }
  if (s.broker > 0) {
    kill(s.broker, SIGUSR1);
    waitpid(s.broker, NULL, 0);
  }
  if (s.instance_fd >= 0) close(s.instance_fd);
  mb_watch_free(s.watch);
  free(s.workers);
  free(s.argv);
  return s.code;
}
