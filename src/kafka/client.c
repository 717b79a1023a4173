/* kafka/client.c: a handle of librdkafka, and how its calls that may block are made: each on a
 * thread of its own, and waited for until its deadline. The calls are in kafka/calls.c. Must not
 * know what a call is for, nor call back into the bus from those threads.
 *
 * A call that does not return in time is abandoned: its thread keeps the handle alive, and destroys
 * it when the call has returned and the owner has closed the client, whichever comes last. What it
 * works on are copies of its own. While a question is out, further questions fail at once; after an
 * abandoned change nobody knows what the handle's state is, so the client is lost: every call
 * fails, and its owner closes it and opens another. So a client has two such threads at most. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "kafka/client_internal.h"

#define NEW_MS   10000  /* for rd_kafka_new */
#define LEAST_US 100000 /* a call gets this much, however late it is */
#define LOOK_US  50000  /* between checks for a stop */

#define FREES_ONCE 0x020d0000 /* librdkafka, see run_new */

static _Thread_local bool is_away;

bool mb__client_is_away(void) {
  return is_away;
}

rd_kafka_t *mb__client_handle(const mb_client *client) {
  return client->rk;
}

bool mb__client_lost(const mb_client *client) {
  return client->lost;
}

void mb__client_on_line(mb_client *client, mb_heard_fn heard) {
  client->heard = heard;
}

void *mb__client_owner(const mb_client *client) {
  return is_away || !client ? NULL : client->owner;
}

/* ---- callbacks ---- */

void mb__client_defer(mb_client *client, mb_deferred *deferred) {
  deferred->next = NULL;
  pthread_mutex_lock(&client->lock);
  bool keep = !client->lost && !client->closed;
  if (keep) {
    *client->tail = deferred;
    client->tail = &deferred->next;
  }
  pthread_mutex_unlock(&client->lock);
  if (!keep) free(deferred);
}

static void serve_deferred(mb_client *client) {
  pthread_mutex_lock(&client->lock);
  mb_deferred *deferred = client->deferred;
  client->deferred = NULL;
  client->tail = &client->deferred;
  pthread_mutex_unlock(&client->lock);
  while (deferred) {
    mb_deferred *next = deferred->next;
    if (client->owner) deferred->serve(client->owner, deferred);
    free(deferred);
    deferred = next;
  }
}

/* ---- a call ---- */

mb_call *mb__call_new(mb_client *client, const char *name, void (*run)(rd_kafka_t *, mb_call *),
                      int timeout_ms, bool changes) {
  mb_call *c = calloc(1, sizeof *c);
  if (!c) return NULL;
  *c = (mb_call){
      .client = client, .name = name, .run = run, .timeout_ms = timeout_ms, .changes = changes};
  return c;
}

void mb__call_free(mb_call *c) {
  if (c->conf) rd_kafka_conf_destroy(c->conf);
  if (c->list) rd_kafka_topic_partition_list_destroy(c->list);
  if (c->member) rd_kafka_consumer_group_metadata_destroy(c->member);
  if (c->error) rd_kafka_error_destroy(c->error);
  if (c->metadata) rd_kafka_metadata_destroy(c->metadata);
  free(c->topic);
  free(c);
}

/* One that uses the client less; the last destroys the handle. */
static void release(mb_client *client) {
  pthread_mutex_lock(&client->lock);
  bool last = --client->refs == 0;
  pthread_mutex_unlock(&client->lock);
  if (!last) return;
  if (client->rk) rd_kafka_destroy_flags(client->rk, client->destroy_flags);
  serve_deferred(client);
  if (client->closing) mb__call_free(client->closing);
  pthread_cond_destroy(&client->returned);
  pthread_mutex_destroy(&client->lock);
  free(client);
}

static void *run_away(void *opaque) {
  mb_call *c = opaque;
  mb_client *client = c->client;
  is_away = true;
  c->run(client->rk, c);
  pthread_mutex_lock(&client->lock);
  bool abandoned = c->abandoned;
  c->done = true;
  if (abandoned) client->out--;
  pthread_cond_signal(&client->returned);
  pthread_mutex_unlock(&client->lock);
  if (!abandoned) return NULL; /* the call and the client are the waiting thread's again */
  mb__call_free(c);
  release(client);
  return NULL;
}

/* Signals are for the threads of the program. */
static bool start_thread(mb_call *c) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  if (pthread_attr_init(&attributes)) return false;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = !pthread_create(&thread, &attributes, run_away, c);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return started;
}

/* Until when the call is waited for, as far as is known now. */
static int64_t deadline(const mb_call *c, int64_t begin_us, int64_t now_us) {
  mb_context *ctx = c->client->ctx;
  int64_t by_us = begin_us + (int64_t)c->timeout_ms * 1000 + MB_CALL_GRACE_US;
  if (!ctx) return by_us;
  bool ends = mb__context_host_ends(ctx);
  if (ends && !c->changes && !ctx->consuming) return now_us; /* nobody needs the answer */
  if (!ctx->stop_seen_us && (ends || (ctx->consuming && atomic_load(&ctx->stop))))
    ctx->stop_seen_us = now_us;
  int64_t end_us = ctx->closing_by_us;
  if (!end_us && ctx->stop_seen_us)
    end_us = ctx->stop_seen_us + (int64_t)(mb__conf_num(ctx->conf, MB_OPT_shutdown_timeout) * 1e6) -
             MB_CALL_GRACE_US;
  if (end_us && end_us + MB_CALL_GRACE_US < by_us) by_us = end_us + MB_CALL_GRACE_US;
  return by_us > begin_us + LEAST_US ? by_us : begin_us + LEAST_US;
}

/* true if the call has returned. Else it is abandoned, and freed by its thread. */
static bool wait_for(mb_call *c) {
  mb_client *client = c->client;
  int64_t begin_us = mb__mono_us();
  pthread_mutex_lock(&client->lock);
  while (!c->done) {
    int64_t now_us = mb__mono_us(), by_us = deadline(c, begin_us, now_us);
    if (now_us >= by_us) break;
    if (by_us > now_us + LOOK_US) by_us = now_us + LOOK_US;
    struct timespec until = {.tv_sec = by_us / 1000000, .tv_nsec = by_us % 1000000 * 1000};
    pthread_cond_timedwait(&client->returned, &client->lock, &until);
  }
  bool done = c->done;
  if (!done) {
    c->abandoned = true;
    client->out++;
    client->refs++;
    if (c->changes) client->lost = true;
  }
  pthread_mutex_unlock(&client->lock);
  return done;
}

bool mb__call_make(mb_call *c) {
  mb_client *client = c->client;
  mb_context *ctx = client->ctx;
  const char *name = c->name;
  pthread_mutex_lock(&client->lock);
  bool refused = client->lost || (client->out && !c->changes);
  pthread_mutex_unlock(&client->lock);
  if (refused) {
    mb__call_free(c);
    return false;
  }
  bool changes = c->changes, returned = true;
  if (start_thread(c))
    returned = wait_for(c);
  else
    c->run(client->rk, c); /* no thread can be started: here it takes the time it takes */
  serve_deferred(client);
  /* Closing takes librdkafka up to a second (its telemetry, from 2.5 on), and a question that is
   * given up because the host ends was asked in time: no warnings. */
  bool expected = client->closed || (!changes && ctx && mb__context_host_ends(ctx));
  if (!returned && ctx)
    mb__log(&ctx->log, expected ? MB_LOG_DEBUG : MB_LOG_WARN,
            "librdkafka: %s did not return in time%s", name,
            changes ? "; its client is given up" : "");
  return returned;
}

/* ---- life ---- */

/* On a thread of librdkafka's, which the client outlives. 1 = go on, as OpenSSL decided. */
static int on_certificate(rd_kafka_t *rk, const char *name, int32_t id, int *x509_error, int depth,
                          const char *certificate, size_t size, char *errstr, size_t errstr_size,
                          void *opaque) {
  mb_client *client = opaque;
  (void)rk, (void)name, (void)id, (void)depth, (void)certificate, (void)size, (void)errstr,
      (void)errstr_size;
  if (*x509_error) atomic_store(&client->certificate, *x509_error);
  return *x509_error == 0;
}

int mb__client_certificate(const mb_client *client) {
  return atomic_load(&client->certificate);
}

mb_trouble *mb__client_trouble(mb_client *client) {
  return &client->trouble;
}

static rd_kafka_t *new_handle(mb_call *c, rd_kafka_conf_t *conf) {
  rd_kafka_t *rk = rd_kafka_new(c->type, conf, c->text, sizeof c->text);
  if (!rk) c->err = rd_kafka_last_error(); /* this thread's */
  return rk;
}

/* Whether librdkafka takes what it looks at late: the login and the files of TLS. */
static bool would_start(mb_call *c) {
  char protocol[24] = "", mechanism[32] = "";
  size_t protocol_size = sizeof protocol, mechanism_size = sizeof mechanism;
  rd_kafka_conf_get(c->conf, "security.protocol", protocol, &protocol_size);
  rd_kafka_conf_get(c->conf, "sasl.mechanisms", mechanism, &mechanism_size);
  /* Without a broker it does nothing, but for asking for a token. */
  bool token = !strncmp(protocol, "sasl", 4) && !strcmp(mechanism, "OAUTHBEARER");
  bool tls = strstr(protocol, "ssl") != NULL;
  if (!strcmp(protocol, "plaintext") || (token && !tls)) return true;
  rd_kafka_conf_t *conf = rd_kafka_conf_dup(c->conf);
  rd_kafka_conf_set(conf, "bootstrap.servers", "", NULL, 0);
  if (token) rd_kafka_conf_set(conf, "security.protocol", "ssl", NULL, 0);
  rd_kafka_t *rk = new_handle(c, conf);
  if (rk)
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
  else
    rd_kafka_conf_destroy(conf);
  return rk != NULL;
}

/* librdkafka before 2.13 frees the interceptors of a configuration that it refuses late, which go
 * once more with the configuration. A copy has none: what may be refused is tried with it first.
 * If librdkafka cannot create its threads after that, the configuration is not freed. */
static void run_new(rd_kafka_t *rk, mb_call *c) {
  (void)rk;
  if (c->flag && !would_start(c)) return;
  c->client->rk = new_handle(c, c->conf);
  bool freed = c->flag && c->err == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  if (c->client->rk || freed) c->conf = NULL;
}

static void run_destroy(rd_kafka_t *rk, mb_call *c) {
  if (c->cluster) rd_kafka_mock_cluster_destroy(c->cluster);
  rd_kafka_destroy_flags(rk, c->client->destroy_flags);
  c->client->rk = NULL;
}

static mb_client *client_new(mb_context *ctx, void *owner) {
  mb_client *client = calloc(1, sizeof *client);
  if (!client) return NULL;
  *client = (mb_client){.ctx = ctx, .owner = owner, .refs = 1};
  client->tail = &client->deferred;
  client->closing = mb__call_new(client, "rd_kafka_destroy", run_destroy, 0, true);
  if (!client->closing) {
    free(client);
    return NULL;
  }
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&client->returned, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&client->lock, NULL);
  return client;
}

mb_err mb__client_open(mb_context *ctx, rd_kafka_type_t type, const char *name,
                       rd_kafka_conf_t *conf, void *owner, mb_client **opened, char *errstr,
                       size_t errstr_size) {
  mb_err err = MB_OK;
  mb_client *client = client_new(ctx, owner);
  mb_call *c = client ? mb__call_new(client, "rd_kafka_new", run_new, NEW_MS, true) : NULL;
  if (!c) {
    rd_kafka_conf_destroy(conf);
    if (client) release(client);
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  }
  rd_kafka_conf_set_opaque(conf, client);
  /* Refused where librdkafka has no TLS, and there is nothing to look at. */
  (void)rd_kafka_conf_set_ssl_cert_verify_cb(conf, on_certificate);
  c->type = type;
  c->conf = conf;
  c->flag = type == RD_KAFKA_PRODUCER && rd_kafka_version() < FREES_ONCE; /* see run_new */
  if (!mb__call_make(c)) {
    err = mb__error(MB_ETIMEOUT, errstr, errstr_size,
                    "the %s was not ready in time: librdkafka did not return from rd_kafka_new",
                    name);
    client->owner = NULL;
    release(client);
    return err;
  }
  if (client->rk)
    rd_kafka_set_log_queue(client->rk, NULL);
  else if (c->err == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE)
    err = mb__error(MB_ENOMEM, errstr, errstr_size,
                    "the %s was not made: expected room for its threads, got \"%s\"; raise the "
                    "limits of processes and memory (ulimit -u, ulimit -v, a container's pids)",
                    name, c->text);
  else if (ctx)
    err = mb__config_refused(ctx->conf, name, c->text, errstr, errstr_size);
  else
    err = mb__error(MB_EIO, errstr, errstr_size, "%s", c->text);
  mb__call_free(c);
  if (err)
    release(client);
  else
    *opened = client;
  return err;
}

static bool close_with(mb_client *client, rd_kafka_mock_cluster_t *cluster, int flags,
                       int64_t by_us) {
  if (!client) return true;
  client->owner = NULL;
  client->destroy_flags = flags;
  pthread_mutex_lock(&client->lock);
  client->closed = true;
  client->lost = false;
  bool out = client->refs > 1;
  if (out) client->refs--; /* the thread of the call that is out destroys the handle */
  pthread_mutex_unlock(&client->lock);
  if (out) return false;
  mb_call *c = client->closing;
  client->closing = NULL;
  c->cluster = cluster;
  c->timeout_ms = mb__left_ms(by_us);
  bool returned = mb__call_make(c);
  if (returned) mb__call_free(c);
  release(client);
  return returned;
}

bool mb__client_close(mb_client *client, int flags, int64_t by_us) {
  return close_with(client, NULL, flags, by_us);
}

void mb__client_close_mock(mb_client *client, rd_kafka_mock_cluster_t *cluster, int64_t by_us) {
  close_with(client, cluster, 0, by_us);
}

/* ---- what librdkafka says ---- */

typedef struct kept_line {
  mb_deferred deferred; /* first */
  const mb_client *client;
  mb_level level;
  char text[];
} kept_line;

static void serve_line(void *owner, const mb_deferred *deferred) {
  const kept_line *kept = (const kept_line *)deferred;
  const mb_client *client = kept->client;
  mb__log(&client->ctx->log, kept->level, "%s", kept->text);
  if (client->heard) client->heard(owner, kept->text);
}

void mb__client_log(const rd_kafka_t *rk, int level, const char *fac, const char *text) {
  mb_client *client = rd_kafka_opaque(rk);
  /* librdkafka logs as errors also what it repairs by itself; what it cannot repair reaches the
   * error callbacks. */
  mb_level ours = level <= 2 ? MB_LOG_ERROR : MB_LOG_DEBUG;
  void *owner = mb__client_owner(client);
  if (owner) {
    mb__log(&client->ctx->log, ours, "librdkafka %s: %s", fac, text);
    if (client->heard) client->heard(owner, text);
  } else if (client && mb__client_is_away()) {
    size_t size = strlen(fac) + strlen(text) + sizeof "librdkafka : ";
    kept_line *kept = malloc(sizeof *kept + size);
    if (!kept) return;
    kept->deferred.serve = serve_line;
    kept->client = client;
    kept->level = ours;
    snprintf(kept->text, size, "librdkafka %s: %s", fac, text);
    mb__client_defer(client, &kept->deferred);
  }
}

bool mb__client_has_link(rd_kafka_t *rk) {
  const struct rd_kafka_metadata *metadata = NULL;
  /* Without a usable connection it fails at once, and one is tried; with one, it has no time for
   * the answer. */
  rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, NULL, &metadata, 0);
  if (metadata) rd_kafka_metadata_destroy(metadata);
  return !err || err == RD_KAFKA_RESP_ERR__TIMED_OUT;
}
