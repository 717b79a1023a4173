/* program/supervisor.c: worker processes: started, watched, restarted with backoff, stopped.
 * Must not hold a Kafka client or a Lua state: it forks before either exists.
 * Called by program/main.c for `moonbus run FILE --workers N`. */
#include "program/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
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
#define STEADY_MS         10000 /* a life this long resets the back-off of a worker */
#define BACKOFF_MAX_MS    30000
#define LOOK_MS           100  /* between looks at what workers have in hand */
#define SHUTDOWN_GRACE_MS 2000 /* past shutdown_timeout, before SIGKILL */

typedef struct worker {
  pid_t pid; /* 0 = not running */
  int64_t started_ms, restart_ms;
  int backoff_ms;
  bool replaced;      /* this is not the first of its number */
  const char *killed; /* why we killed it; NULL = we did not */
  bool red;           /* and reported so */
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
  bool insisted;   /* a further signal kills */
  int64_t kill_ms; /* when workers that still run are killed; set once stopping */
  int code;
} supervisor;

static void say(mb_level level, const char *fmt, ...) MB_PRINTF(2, 3);

static void say(mb_level level, const char *fmt, ...) {
  char text[1024];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  mb_log_program(level, "moonbus: ", text);
}

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

int mb_supervisor_workers(int argc, char **argv) {
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

void mb_stop_signals(sigset_t *signals) {
  struct sigaction hangup;
  sigemptyset(signals);
  sigaddset(signals, SIGINT);
  sigaddset(signals, SIGTERM);
  sigaddset(signals, SIGQUIT);
  if (sigaction(SIGHUP, NULL, &hangup) || hangup.sa_handler != SIG_IGN) sigaddset(signals, SIGHUP);
}

/* A worker goes when the supervisor dies without a word. Signals that ask for an end stay blocked
 * until it is ready for them. */
static void become_worker(pid_t parent) {
  sigset_t children;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(1);
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_UNBLOCK, &children, NULL);
}

void mb_supervisor_mourn(const mb_worker *worker) {
  mb_watch_state state;
  if (getppid() == worker->supervisor) return;
  mb_watch_look(worker->watch, worker->number, &state);
  alarm((unsigned)((state.shutdown_us / 1000 + SHUTDOWN_GRACE_MS + 999) / 1000));
}

static void start(supervisor *s, int i) {
  worker *w = &s->workers[i];
  fflush(NULL);
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) {
    w->restart_ms = now_ms() + 1000;
    return;
  }
  if (pid == 0) {
    char number[16];
    become_worker(parent);
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

static void stop_all(supervisor *s) {
  int64_t longest_ms = 0;
  s->stopping = true;
  for (int i = 0; i < s->count; i++) {
    mb_watch_state state;
    mb_watch_look(s->watch, i, &state);
    if (state.shutdown_us / 1000 > longest_ms) longest_ms = state.shutdown_us / 1000;
    if (s->workers[i].pid) kill(s->workers[i].pid, SIGTERM);
  }
  s->kill_ms = now_ms() + longest_ms + SHUTDOWN_GRACE_MS;
}

static void kill_worker(worker *w, const char *reason) {
  w->killed = reason;
  kill(w->pid, SIGKILL);
}

/* As on_signal of program/main.c has it. */
static void stop_asked(supervisor *s, int number) {
  if (s->insisted && number != SIGHUP) {
    for (int i = 0; i < s->count; i++)
      if (s->workers[i].pid) kill_worker(&s->workers[i], "second_signal");
  } else if (!s->stopping) {
    stop_all(s);
  }
  if (number != SIGHUP) s->insisted = true;
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

static void died(supervisor *s, worker *w, const char *how) {
  int number = (int)(w - s->workers);
  const char *reason = w->killed ? w->killed : "worker_crashed";
  char in_hand[512];
  bool held = mb_watch_died(s->watch, number, reason, in_hand, sizeof in_hand);
  say(MB_LOG_ERROR, "worker %d died: %s (%s)%s%s", number + 1, reason, how,
      held ? "; it had in hand " : "", held ? in_hand : "");
  if (s->stopping) return;
  /* A death with an event in hand has its own limit, max_retries: the next try need not wait long.
   */
  start_later(w, now_ms() - w->started_ms > STEADY_MS || held);
}

/* true if the worker's end is its own decision: an exit code, but not one by which a handler ended
 * the process. */
static bool has_decided(const supervisor *s, const worker *w, int status) {
  mb_watch_state state;
  mb_watch_look(s->watch, (int)(w - s->workers), &state);
  return WIFEXITED(status) && !state.started_us;
}

/* An exit code is a worker's own word (a wrong script, a finished --until-idle) and ends it; a
 * signal is a crash, and another takes its place. One that takes a place while the broker is away
 * tries again, as those that run wait for the broker. */
static void ended(supervisor *s, worker *w, int status) {
  int64_t lived_ms = now_ms() - w->started_ms;
  int number = (int)(w - s->workers) + 1, code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  w->pid = 0;
  if (!has_decided(s, w, status)) {
    char how[64];
    if (WIFEXITED(status))
      snprintf(how, sizeof how, "a handler ended the process, exit code %d", code);
    else
      snprintf(how, sizeof how, "signal %d, %s", WTERMSIG(status), strsignal(WTERMSIG(status)));
    died(s, w, how);
    w->done = s->stopping;
    if (s->stopping && !s->code) s->code = WIFEXITED(status) ? code : 128 + WTERMSIG(status);
    return;
  }
  if (is_kafkas(code) && !s->stopping && (w->replaced || lived_ms > STEADY_MS)) {
    say(MB_LOG_ERROR, "worker %d ended (exit code %d); again in %.1f s", number, code,
        start_later(w, lived_ms > STEADY_MS) / 1e3);
    return;
  }
  w->done = true;
  if (code && !s->code) s->code = code;
  if (!code || s->stopping) return;
  say(MB_LOG_ERROR, "worker %d ended (exit code %d): all end", number, code);
  stop_all(s);
}

static void reap(supervisor *s) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid == s->broker) {
      s->broker = 0;
      if (s->stopping) continue;
      say(MB_LOG_ERROR, "the embedded broker ended");
      s->code = 1;
      stop_all(s);
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
  if (state.log_json) mb_log_program_json();
  if (w->red != (state.health == MB_RED))
    say(MB_LOG_WARN, "worker %d %s", i + 1,
        w->red ? "is no longer red" : "is red: its log says why");
  w->red = state.health == MB_RED;
  int64_t limit_ms = (state.started_us + state.timeout_us) / 1000;
  if (s->stopping && now_ms() > s->kill_ms)
    kill_worker(w, "shutdown_timeout");
  else if (state.started_us && state.timeout_us && now_ms() > limit_ms)
    kill_worker(w, "handler_timeout");
  else if (state.memory_max_bytes && resident_bytes(w->pid) > state.memory_max_bytes)
    kill_worker(w, "out_of_memory");
}

static void supervise(supervisor *s, const sigset_t *signals) {
  for (;;) {
    int64_t due_ms = restart_due(s);
    if (all_done(s)) return;
    for (int i = 0; i < s->count; i++) look(s, i);
    if (due_ms < 0 || due_ms > LOOK_MS) due_ms = LOOK_MS;
    struct timespec wait = {.tv_sec = 0, .tv_nsec = due_ms * 1000000};
    int number = sigtimedwait(signals, NULL, &wait);
    if (number > 0 && number != SIGCHLD) stop_asked(s, number);
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

/* In the broker's process. Signals that ask for an end stay blocked: workers commit to it until
 * they have ended, also those whose supervisor was killed. life: a pipe whose other end they hold.
 */
static void be_broker(int report, int life) {
  char why[256], nothing;
  mb_broker *broker = mb_broker_new(why, sizeof why);
  const char *text = broker ? mb_broker_address(broker) : "";
  if (!broker) say(MB_LOG_ERROR, "%s", why);
  if (write(report, text, strlen(text)) < 0) _exit(1);
  close(report);
  while (broker && read(life, &nothing, 1) < 0 && errno == EINTR) continue;
  _exit(0);
}

/* A process for the embedded broker: the workers must share one, and a process that will fork must
 * not have threads. It ends with the last process that holds *life, a descriptor. */
static pid_t start_broker(char *address, size_t size, int *life) {
  int report[2], held[2];
  if (pipe2(report, O_CLOEXEC) || pipe2(held, O_CLOEXEC)) return -1;
  pid_t pid = fork();
  if (pid == 0) {
    close(report[0]);
    close(held[1]);
    be_broker(report[1], held[0]);
  }
  close(report[1]);
  close(held[0]);
  *life = held[1];
  ssize_t got = pid > 0 ? read(report[0], address, size - 1) : -1;
  close(report[0]);
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
  int life = -1;
  supervisor s = {.count = workers, .work = work};
  mb_stop_signals(&signals);
  sigaddset(&signals, SIGCHLD);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  signal(SIGPIPE, SIG_IGN);
  for (int i = 2, flags = flags_end(argc, argv); i < flags; i++) {
    if (strcmp(argv[i], "--embedded") == 0) embedded = true;
    if (strncmp(argv[i], "--bootstrap-servers", 19) == 0) named = true;
  }
  embedded = embedded && !named; /* both: the workers say that this cannot be */
  if (embedded && (s.broker = start_broker(address, sizeof address, &life)) < 0) {
    say(MB_LOG_ERROR, "the embedded broker cannot start");
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
    say(MB_LOG_ERROR, "%s", why);
    s.code = 1;
  }
  if (s.broker > 0) {
    kill(s.broker, SIGKILL);
    waitpid(s.broker, NULL, 0);
  }
  if (life >= 0) close(life);
  if (s.instance_fd >= 0) close(s.instance_fd);
  mb_watch_free(s.watch);
  free(s.workers);
  free(s.argv);
  return s.code;
}
