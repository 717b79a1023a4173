/* tsan_threads.c: C11 threads by way of POSIX threads.
 * ThreadSanitizer knows pthread_create but not thrd_create, which librdkafka uses: without this
 * every thread of librdkafka is a stranger to it. Linked into the test programs of an MB_TSAN build
 * only. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

typedef struct start {
  thrd_start_t function;
  void *argument;
} start;

static void *run(void *opaque) {
  start job = *(start *)opaque;
  free(opaque);
  return (void *)(intptr_t)job.function(job.argument);
}

static int answer(int err) {
  return err ? thrd_error : thrd_success;
}

int thrd_create(thrd_t *thread, thrd_start_t function, void *argument) {
  start *job = malloc(sizeof *job);
  if (!job) return thrd_nomem;
  *job = (start){function, argument};
  return answer(pthread_create(thread, NULL, run, job));
}

int thrd_join(thrd_t thread, int *result) {
  void *value;
  int err = pthread_join(thread, &value);
  if (!err && result) *result = (int)(intptr_t)value;
  return answer(err);
}

int thrd_detach(thrd_t thread) {
  return answer(pthread_detach(thread));
}

int mtx_init(mtx_t *mutex, int type) {
  pthread_mutexattr_t attributes;
  (void)type;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
  int err = pthread_mutex_init((pthread_mutex_t *)mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  return answer(err);
}

int mtx_lock(mtx_t *mutex) {
  return answer(pthread_mutex_lock((pthread_mutex_t *)mutex));
}
int mtx_unlock(mtx_t *mutex) {
  return answer(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}
void mtx_destroy(mtx_t *mutex) {
  pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

int cnd_init(cnd_t *condition) {
  return answer(pthread_cond_init((pthread_cond_t *)condition, NULL));
}
int cnd_signal(cnd_t *condition) {
  return answer(pthread_cond_signal((pthread_cond_t *)condition));
}
void cnd_destroy(cnd_t *condition) {
  pthread_cond_destroy((pthread_cond_t *)condition);
}

int cnd_broadcast(cnd_t *condition) {
  return answer(pthread_cond_broadcast((pthread_cond_t *)condition));
}

int cnd_wait(cnd_t *condition, mtx_t *mutex) {
  return answer(pthread_cond_wait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex));
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until) {
  int err = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
  return err == ETIMEDOUT ? thrd_timedout : answer(err);
}
