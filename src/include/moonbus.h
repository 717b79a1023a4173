/*
 * moonbus.h: the public interface of libmoonbus.
 *
 * An event bus on Apache Kafka: publish events, consume them as a member of a
 * consumer group, retry failed handlers in order, keep dead letters.
 *
 *   mb_config *conf = mb_config_new();
 *   mb_config_set(conf, "bootstrap_servers", "localhost:9092", MB_FROM_SCRIPT, err, sizeof err);
 *   mb_bus *bus = mb_bus_new(conf, err, sizeof err);
 *   mb_bus_subscribe(bus, "OrderPlaced", on_order, NULL, NULL, NULL);
 *   mb_bus_connect(bus, 10000, err, sizeof err);
 *   mb_bus_run(bus, err, sizeof err);      // until mb_bus_stop(bus)
 *   mb_bus_free(bus);
 *   mb_config_free(conf);
 *
 * Conventions
 *   Every function that can fail returns mb_err: MB_OK (0) or a negative code,
 *   and writes a sentence into errstr (NULL allowed): MB_ERRSTR_MAX bytes hold it, and in fewer it
 *   ends with "...". Outputs are written only
 *   on success. NULL where an argument is wanted is MB_EINVAL, but not for the object itself: a
 *   bus, a broker, a host must be there, except to be freed. Pointers are owned (you free it),
 * borrowed (valid until the moment named), copied (the library keeps its own), or taken (the
 * library frees it, also when the call fails). One bus belongs to one thread. mb_bus_stop() alone
 * may be called from any thread and from a signal handler. The library never exits the process,
 * never prints (but through the log callback), and never installs a signal handler.
 */
#ifndef MOONBUS_H
#define MOONBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of this header; the library in use says its own with mb_version(). */
#define MOONBUS_VERSION_MAJOR 0
#define MOONBUS_VERSION_MINOR 1
#define MOONBUS_VERSION_PATCH 0
/* To compare: 0.1.0 is 100, 1.2.3 is 10203. */
#define MOONBUS_VERSION_NUM                                                                        \
  (MOONBUS_VERSION_MAJOR * 10000 + MOONBUS_VERSION_MINOR * 100 + MOONBUS_VERSION_PATCH)
#define MB__QUOTE(text)  #text
#define MB__STRING(text) MB__QUOTE(text)
#define MOONBUS_VERSION                                                                            \
  MB__STRING(MOONBUS_VERSION_MAJOR)                                                                \
  "." MB__STRING(MOONBUS_VERSION_MINOR) "." MB__STRING(MOONBUS_VERSION_PATCH)

#if defined(__GNUC__)
#define MB_EXPORT            __attribute__((visibility("default")))
#define MB_MUST_CHECK        __attribute__((warn_unused_result))
#define MB_DEPRECATED        __attribute__((deprecated))
#define MB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define MB_EXPORT
#define MB_MUST_CHECK
#define MB_DEPRECATED
#define MB_PRINTF(fmt, args)
#endif

/* ---- errors ------------------------------------------------------------ */

/** Bytes for an errstr that holds every sentence of this library, its NUL included. */
#define MB_ERRSTR_MAX 4096

/** Every error: X(name, number, what it means). Numbers are append-only. */
#define MB_ERRORS(X)                                                                               \
  X(EINVAL, -1, "an argument is not valid")                                                        \
  X(ECONFIG, -2, "an option is unknown or its value is not possible")                              \
  X(ENOMEM, -3, "out of memory or threads")                                                        \
  X(ESTATE, -4, "not possible in the bus's present state")                                         \
  X(ECONNECT, -5, "no broker can be reached")                                                      \
  X(EAUTH, -6, "the broker refused the credentials or the permission")                             \
  X(ETOPIC, -7, "the topic does not exist or its name is not legal")                               \
  X(EFULL, -8, "the producer queue is full")                                                       \
  X(ETIMEOUT, -9, "the time allowed ran out")                                                      \
  X(EDELIVERY, -10, "one or more events were not delivered")                                       \
  X(EEVENT, -11, "the event does not fit its type")                                                \
  X(EDECODE, -12, "the record's value cannot be decoded")                                          \
  X(ENOENT, -13, "no such record, header or subscription")                                         \
  X(EREPLAY, -14, "the dead letter was replayed as often as allowed")                              \
  X(EUNSUPPORTED, -15, "this broker or build cannot do that")                                      \
  X(EFATAL, -16, "the Kafka client stopped for good")                                              \
  X(EKAFKA, -17, "the broker answered with an error")                                              \
  X(EIO, -18, "reading or writing failed")                                                         \
  X(ESCRIPT, -19, "the script has an error")                                                       \
  X(EBREAKER, -20, "partitions are paused: too many dead letters")                                 \
  X(ESTORE, -21, "a store did not do what it was asked")                                           \
  X(EFENCED, -22, "another process took this one's place under the same name")

typedef enum mb_err {
  MB_OK = 0,
#define MB__ENUM(name, number, text) MB_##name = number,
  MB_ERRORS(MB__ENUM)
#undef MB__ENUM
} mb_err;

#define MB_EBRAKED MB_EBREAKER /* deprecated: its old name */

/** The code's name ("EFULL"; "OK" for 0; "EUNKNOWN" for any other number). */
MB_EXPORT const char *mb_err_name(mb_err err);
/** What the code means, one sentence without a full stop. */
MB_EXPORT const char *mb_err_text(mb_err err);

/** Bytes that need not end in NUL; {NULL, 0} is absent, {"", 0} is empty. */
typedef struct mb_bytes {
  const char *data;
  size_t len;
} mb_bytes;

/** mb_bytes of a C string; NULL gives the absent view. */
MB_EXPORT mb_bytes mb_str(const char *s);

/* ---- configuration ----------------------------------------------------- */

typedef struct mb_config mb_config;

/** Where a value comes from. A later one in this list wins over an earlier. */
typedef enum mb_source { MB_FROM_DEFAULT, MB_FROM_SCRIPT, MB_FROM_ENV, MB_FROM_FLAG } mb_source;

/** All options at their defaults. Owned; NULL when out of memory. */
MB_EXPORT mb_config *mb_config_new(void);
MB_EXPORT void mb_config_free(mb_config *conf);

/** Set one option from text.
 *  shape   key as in the manual's option reference; value in the option's type (true/false for
 *          booleans; "" unsets an option whose default is unset)
 *  owns    key and value copied
 *  returns MB_OK (also when a higher source had set it already and keeps it), or MB_ECONFIG:
 * unknown key (errstr names the nearest one), wrong type, out of bounds, not one of the choices */
MB_EXPORT mb_err mb_config_set(mb_config *conf, const char *key, const char *value,
                               mb_source source, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Pass a property to librdkafka as it is (both producer and consumer get it where it applies).
 *  returns MB_ECONFIG when librdkafka does not know it, refuses the value, or an option of the
 * table governs it (errstr names that option) */
MB_EXPORT mb_err mb_config_set_kafka(mb_config *conf, const char *property, const char *value,
                                     char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Read MOONBUS_<KEY> from the environment for every option (source MB_FROM_ENV). A variable whose
 *  name is almost an option's is MB_ECONFIG, too; others are somebody else's. */
MB_EXPORT mb_err mb_config_set_env(mb_config *conf, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** The option's value as text: borrowed until the next set or free; NULL when unset or unknown. The
 *  two derived names "topic_name" and "dlq_topic_name" are readable too. */
MB_EXPORT const char *mb_config_get(mb_config *conf, const char *key);

/** Check what concerns several options at once (SASL needs a mechanism, a certificate needs its
 * key, heartbeat below session, topic names legal, ...). mb_bus_new calls it. */
MB_EXPORT mb_err mb_config_check(mb_config *conf, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** One row of the option table, for help texts and generated documents; all strings static. */
typedef struct mb_option {
  const char *key;
  const char *section; /* "Connection", "Producer", "Consumer", ... */
  const char *type;    /* "string", "integer", "number", "boolean", "choice" */
  const char *choices; /* "a|b|c" for "choice", else NULL */
  const char *def;     /* default as text; NULL = unset */
  const char *unit;    /* "ms", "s", "bytes", or NULL */
  double min, max;     /* bounds of integer and number */
  const char *kafka;   /* the librdkafka property it sets, or NULL */
  bool secret;         /* never shown in logs or in dumps */
  const char *help;
} mb_option;

/** Row i of the table (static), or NULL past the end. */
MB_EXPORT const mb_option *mb_option_at(size_t i);

/* ---- logging ----------------------------------------------------------- */

typedef enum mb_level { MB_LOG_ERROR, MB_LOG_WARN, MB_LOG_INFO, MB_LOG_DEBUG } mb_level;

/** Receives every log line of a bus, on the bus's own thread. line ends without a newline. */
typedef void (*mb_log_fn)(mb_level level, const char *line, void *opaque);
/** The lines of a program around its buses, its final error among them, are JSON from now on, as
 * those of a bus with log_format json are. Such a bus says so itself when it is made. */
MB_EXPORT void mb_log_program_json(void);
/** true if they are. */
MB_EXPORT bool mb_log_program_is_json(void);
/** Write one line to stderr: prefix and text, or JSON with time, level, message (text), pid and
 * worker (of MOONBUS_WORKER). */
MB_EXPORT void mb_log_program(mb_level level, const char *prefix, const char *text);

/* ---- events and records ------------------------------------------------ */

/** An event to publish. Views are borrowed for the call. */
typedef struct mb_event {
  mb_bytes event_type;       /* required, 1..249 bytes */
  mb_bytes aggregate_id;     /* required, a UUID in text */
  mb_bytes aggregate_type;   /* required */
  mb_bytes data;             /* the event's own fields: a JSON object, or absent */
  mb_bytes metadata;         /* a JSON object, or absent for {} */
  int64_t event_version;     /* 0 = 1 */
  int64_t aggregate_version; /* 0 = 1 */
  mb_bytes event_id;         /* absent = a random UUID */
  mb_bytes occurred_at;      /* ISO 8601; absent = now, UTC */
  mb_bytes correlation_id;   /* absent = a random UUID */
  mb_bytes causation_id;     /* absent = none */
  mb_bytes tenant_id;        /* absent = none */
  mb_bytes actor_id;         /* absent = none */
  /* W3C trace context, with enable_tracing: absent = that of the event whose handler publishes,
   * empty = none. traceparent and tracestate go together. */
  mb_bytes traceparent, tracestate, baggage;
} mb_event;

/** What became of one published event. */
typedef struct mb_receipt {
  mb_err err;        /* MB_OK once the broker acknowledged it */
  int32_t partition; /* -1 unless err is MB_OK */
  int64_t offset;    /* -1 unless err is MB_OK */
} mb_receipt;

/** A record in the hands of a handler; valid until the handler returns. */
typedef struct mb_msg mb_msg;

/** Where the record stands: topic (borrowed like the record), partition, offset. */
MB_EXPORT const char *mb_msg_topic(const mb_msg *msg);
MB_EXPORT int32_t mb_msg_partition(const mb_msg *msg);
MB_EXPORT int64_t mb_msg_offset(const mb_msg *msg);
/** Milliseconds since 1970 as the producer wrote it; -1 if the record has none. */
MB_EXPORT int64_t mb_msg_timestamp_ms(const mb_msg *msg);
/** 1 on the first delivery, counted up by each retry (including those an earlier retry_count header
 *  tells of). */
MB_EXPORT int mb_msg_attempt(const mb_msg *msg);
MB_EXPORT mb_bytes mb_msg_key(const mb_msg *msg);
MB_EXPORT mb_bytes mb_msg_value(const mb_msg *msg);
MB_EXPORT mb_bytes mb_msg_event_type(const mb_msg *msg);
/** The first header of that name; of dlq_... names the last, which describes the last death.
 * MB_ENOENT if there is none. */
MB_EXPORT mb_err mb_msg_header(const mb_msg *msg, const char *name, mb_bytes *value);

typedef enum mb_kind {
  MB_NULL,
  MB_BOOL,
  MB_INT,    /* fits int64_t */
  MB_UINT,   /* above INT64_MAX, fits uint64_t */
  MB_DOUBLE, /* has a fraction or an exponent, or does not fit 64 bits */
  MB_STRING, /* unescaped UTF-8 */
  MB_JSON,   /* an object or array, as valid JSON text */
} mb_kind;

/** One decoded JSON value. Views are borrowed as the function that gives it says. */
typedef struct mb_value {
  mb_kind kind;
  union {
    bool b;
    int64_t i;
    uint64_t u;
    double d;
    mb_bytes s;
  } as;
} mb_value;

/** A top-level field of the event, by name, borrowed until the handler returns.
 *  returns MB_ENOENT if the event has no such field, MB_EDECODE if its value is not valid JSON */
MB_EXPORT mb_err mb_msg_field(const mb_msg *msg, const char *name, mb_value *value);

/* ---- handlers ---------------------------------------------------------- */

typedef enum mb_outcome {
  MB_HANDLED,     /* done */
  MB_FAILED,      /* run this handler again later, up to max_retries; then a dead letter */
  MB_REJECTED,    /* a dead letter at once */
  MB_UNDECODABLE, /* the value does not fit what the handler needs: a dead letter at once */
  MB_PENDING,     /* not known yet: mb_bus_complete will tell. After mb_bus_pend */
} mb_outcome;

/** Why a handler did not succeed; passed to it, filled by mb_fail_set. */
typedef struct mb_fail mb_fail;
/** With MB_FAILED: when to run again, instead of the usual backoff. */
MB_EXPORT void mb_fail_retry_after(mb_fail *fail, int64_t ms);
/** Name the error (an identifier such as "Timeout") and say what happened. Copied. */
MB_EXPORT void mb_fail_set(mb_fail *fail, const char *type, const char *fmt, ...) MB_PRINTF(3, 4);

typedef mb_outcome (*mb_handler_fn)(const mb_msg *msg, mb_fail *fail, void *opaque);

/* ---- the bus ----------------------------------------------------------- */

typedef struct mb_bus mb_bus;

/* Handlers that go on after they returned: one that waits for something else, an answer that comes
 * to a poll loop of the program's own say, takes a token, returns MB_PENDING, and is completed once
 * it knows. Up to option concurrency events (1 unless set) may be pending at once; then no further
 * one is given to handlers. Later events of its key wait, other keys go on; nothing at or after it
 * is committed but with a note of what is left. The other handlers of the same event run after it.
 * An event whose partition is taken away, or whose consumption ends, while its handler is pending
 * will be delivered again, here or elsewhere: the handler is completed all the same, to no effect.
 * Until it is, it takes one of the places, and the events of its key wait. */

/** Stands for one pending handler; no other, ever, of this bus has the same. 0 = none. */
typedef uint64_t mb_token;

/** From inside a handler: it will return MB_PENDING.
 *  shape   msg the handler's own
 *  owns    msg and all that was read of it stay borrowed until the handler returns: copy what is
 *          needed later, or see mb_pending_msg
 *  returns MB_EUNSUPPORTED with delivery = exactly_once, MB_ESTATE if that is not the message of
 *          the handler that runs, MB_EINVAL, MB_ENOMEM */
MB_EXPORT mb_err mb_bus_pend(mb_bus *bus, const mb_msg *msg, mb_token *token, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;
/** Tell what the handler came to. The next mb_bus_step acts on it; mb_bus_fd turns readable.
 *  shape   outcome not MB_PENDING; why it failed is told before, by mb_pending_fail
 *  thread  the bus's; also from a handler, and before the one in question has returned
 *  returns MB_ENOENT if no such handler is pending: it was completed already; MB_EINVAL */
MB_EXPORT mb_err mb_bus_complete(mb_bus *bus, mb_token token, mb_outcome outcome);
/** Where a pending handler says why it fails, with mb_fail_set and mb_fail_retry_after; borrowed
 *  until it is completed. NULL (which those take) if there is no such handler, or no memory. */
MB_EXPORT mb_fail *mb_pending_fail(mb_bus *bus, mb_token token);
/** The event of a pending handler, borrowed until the next mb_bus_step. NULL if it is not pending,
 *  or no longer ours: then it is in vain to go on. */
MB_EXPORT const mb_msg *mb_pending_msg(mb_bus *bus, mb_token token);

/** A bus that is not connected yet.
 *  owns    conf copied
 *  returns owned bus, or NULL with errstr saying which option is wrong */
MB_EXPORT mb_bus *mb_bus_new(const mb_config *conf, char *errstr, size_t errstr_size);
/** Disconnects first if need be. NULL allowed. From inside a handler or callback of this bus it
 * does nothing but log an error: free it once that has returned. */
MB_EXPORT void mb_bus_free(mb_bus *bus);

/** Where log lines go; NULL (the default) writes them to stderr. It must not use the bus. */
MB_EXPORT void mb_bus_set_log(mb_bus *bus, mb_log_fn log, void *opaque);

/** Start the producer and wait until a broker answers and the topic is known. Does not join the
 *  consumer group. Connected already: MB_OK at once.
 *  returns MB_ECONNECT, MB_EAUTH, MB_ETOPIC (the topic does not exist and the broker does not
 * create it), MB_ECONFIG */
MB_EXPORT mb_err mb_bus_connect(mb_bus *bus, int timeout_ms, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;
/** Stop consuming, deliver what is queued, close. Safe to call twice. Does not wait for pending
 *  handlers: mb_bus_stop and mb_bus_step do.
 *  returns MB_EDELIVERY when events were still undelivered after the shutdown timeout (errstr
 * counts them), MB_ESTATE from inside a handler or callback */
MB_EXPORT mb_err mb_bus_disconnect(mb_bus *bus, char *errstr, size_t errstr_size);
MB_EXPORT bool mb_bus_is_connected(const mb_bus *bus);
MB_EXPORT bool mb_bus_is_consuming(const mb_bus *bus);
/** Borrowed for the life of the bus. */
MB_EXPORT mb_config *mb_bus_config(mb_bus *bus);

/** Publish events and wait for every delivery report.
 *  shape   receipts: NULL or count elements, all written before return
 *  returns MB_OK when all are acknowledged; MB_EEVENT (errstr names event and field; nothing was
 *          sent); MB_EDELIVERY, MB_EFULL or MB_ETIMEOUT (errstr names the first failure; receipts
 * tell which); MB_ESTATE when not connected */
MB_EXPORT mb_err mb_bus_publish(mb_bus *bus, const mb_event *events, size_t count,
                                mb_receipt *receipts, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;

/** Tells of a background event that was not delivered, on the bus's thread. The bus cannot publish,
 *  run or disconnect meanwhile, and does nothing in a step. */
typedef void (*mb_publish_error_fn)(mb_err err, const char *reason, mb_bytes event_type,
                                    mb_bytes event_id, void *opaque);
MB_EXPORT void mb_bus_on_publish_error(mb_bus *bus, mb_publish_error_fn fn, void *opaque);

/** Queue events for delivery and return. Failures are counted, logged, and told to the callback.
 *  returns MB_EFULL when the queue stayed full for queue_full_timeout_ms (*queued says how many are
 *          in), MB_EEVENT, MB_ESTATE */
MB_EXPORT mb_err mb_bus_publish_background(mb_bus *bus, const mb_event *events, size_t count,
                                           size_t *queued, char *errstr,
                                           size_t errstr_size) MB_MUST_CHECK;

/** Wait until everything queued is delivered or has failed. MB_ETIMEOUT otherwise. */
MB_EXPORT mb_err mb_bus_flush(mb_bus *bus, int timeout_ms, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;

/** Add a handler, called in the order of subscription: those of the event's type first, then those
 *  for all events. May be called while consuming, also from a handler.
 *  shape   event_type NULL = all events; free_opaque NULL or called once the handler is gone; id
 * NULL or receives the handle for mb_bus_unsubscribe owns    opaque taken when free_opaque is given
 */
MB_EXPORT mb_err mb_bus_subscribe(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                                  void *opaque, void (*free_opaque)(void *), uint32_t *id);
/** What may be said of a subscription beyond the usual. */
typedef struct mb_subscription_options {
  const char *name; /* in dead letters; copied; NULL = none */
  int max_retries;  /* of this handler; -1 = the bus's */
  /* The only tenants whose events it is given, as UUIDs in text; "" stands for events without a
   * tenant. Copied; NULL = every event. An event's tenant is the tenant_id of its value; one whose
   * tenant_id cannot be read is undecodable for such a handler. */
  const char *const *tenants;
  size_t tenant_count;
} mb_subscription_options;
/** mb_bus_subscribe with options. What no handler takes of the event's tenant is skipped.
 *  returns MB_EINVAL also when a tenant is no UUID, or there are none in the list */
MB_EXPORT mb_err mb_bus_subscribe_with(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                                       void *opaque, void (*free_opaque)(void *),
                                       const mb_subscription_options *options, uint32_t *id);
/** MB_ENOENT if there is no such subscription. */
MB_EXPORT mb_err mb_bus_unsubscribe(mb_bus *bus, uint32_t id);

typedef enum mb_rebalance {
  MB_ASSIGNED, /* partitions are ours from now on */
  MB_REVOKED,  /* they will be given away: nothing of them runs any more, and once this returns the
                  offsets of what is settled are committed */
  MB_LOST,     /* they are somebody else's already: nothing can be committed */
} mb_rebalance;

/** Tells of the partitions that come and go, on the bus's thread, before it takes effect.
 * partitions borrowed. The bus cannot publish, run or disconnect meanwhile, and does nothing in a
 * step. */
typedef void (*mb_rebalance_fn)(mb_rebalance what, const int32_t *partitions, size_t count,
                                void *opaque);
MB_EXPORT void mb_bus_on_rebalance(mb_bus *bus, mb_rebalance_fn fn, void *opaque);

/** Join the consumer group. Returns at once; mb_bus_step does the work.
 *  shape   auto_reconnect false: a lost connection or a fatal error ends consumption with an error
 *  returns MB_ESTATE when not connected or consuming already, MB_ETOPIC when the dead letter topic
 * is wanted and cannot be had */
MB_EXPORT mb_err mb_bus_start(mb_bus *bus, bool auto_reconnect, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;

/** Wait up to timeout_ms (-1 = until there is something) for work, then do a slice of it: events,
 *  retries that are due, delivery reports, commits. After mb_bus_stop it finishes the event in
 * hand, lets pending handlers be completed for up to shutdown_timeout, commits, leaves the group,
 * and mb_bus_is_consuming turns false. returns MB_OK, or the error
 * that ended consumption */
MB_EXPORT mb_err mb_bus_step(mb_bus *bus, int timeout_ms, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** Start, step until mb_bus_stop is called, stop. MB_ESTATE from inside a handler or callback. */
MB_EXPORT mb_err mb_bus_run(mb_bus *bus, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Ask consumption, or an mb_bus_read under way, to end. Async-signal-safe; any thread. */
MB_EXPORT void mb_bus_stop(mb_bus *bus);

/** A descriptor that turns readable when mb_bus_step has work; poll it from a loop of your own, and
 *  call mb_bus_step at the latest after mb_bus_wait_ms. Owned by the bus. */
MB_EXPORT int mb_bus_fd(const mb_bus *bus);
/** Milliseconds until the bus needs a step even if its descriptor stays quiet; at most 1000. */
MB_EXPORT int mb_bus_wait_ms(const mb_bus *bus);

/* ---- what can be asked of it ------------------------------------------- */

typedef enum mb_health {
  MB_GREEN,
  MB_YELLOW, /* works, but not as it should, or not yet */
  MB_RED,    /* does not work until somebody or something mends it */
} mb_health;
/** "green", "yellow", "red". */
MB_EXPORT const char *mb_health_name(mb_health health);

/** Called per cause, with its own severity.
 *  shape   code an identifier: red: not_connected, no_broker, no_leader, no_answer, refused,
 *          producer_fatal, consumption_ended, consumer_broken, commits_refused,
 *          transactions_failing, breaker_open, dlq_unwritable; yellow: joining,
 *          partition_full, handlers_waiting; partition -1 unless it concerns one
 *  owns    code static; text, a sentence that says what to do, borrowed for the call */
typedef void (*mb_health_fn)(mb_health how, const char *code, const char *text, int32_t partition,
                             void *opaque);
/** How the bus is at this moment: the worst of what fn (NULL allowed) is told; MB_GREEN when that
 * is nothing. Does not wait. A cause that is gone is not told any more. */
MB_EXPORT mb_health mb_bus_health(mb_bus *bus, mb_health_fn fn, void *opaque);

/** Close the circuit breaker of a partition (-1 = of all that this member has). A breaker is open
 * when too many of a partition's events became dead letters (dlq_breaker_run, dlq_breaker_ratio).
 * The event that it held back runs at once, and may become a dead letter, like those after it; the
 * count starts at zero. shape   reset NULL or receives how many breakers were open returns
 * MB_ENOENT if the breaker of that partition is not open, MB_ESTATE from a callback (a handler may
 * call) */
MB_EXPORT mb_err mb_bus_reset_breaker(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                                      size_t errstr_size) MB_MUST_CHECK;
/** Deprecated: the old name of mb_bus_reset_breaker; logs a warning. */
MB_EXPORT mb_err mb_bus_release_brake(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                                      size_t errstr_size) MB_DEPRECATED;

typedef struct mb_stats {
  uint64_t events_published, events_consumed, events_processed_success, events_processed_failed;
  uint64_t messages_sent_to_dlq, handler_errors, reconnections, rebalance_count;
  int64_t last_publish_at_us, last_consume_at_us, last_error_at_us; /* since 1970; 0 = never */
  int64_t connected_at_us;
  uint64_t publish_errors; /* events that were not delivered */
  uint64_t retries;        /* handler runs beyond the first */
  uint64_t events_expired; /* that the log no longer held when the group came to them: offsets */
  uint64_t events_skipped; /* nothing subscribes to them, or they are replays for another group */
  uint64_t events_dropped; /* failed for good while enable_dlq was false */
  uint64_t events_parked;  /* waiting now: for a retry, for an earlier event of their key, or for
                              the dead letter's acknowledgement */
  uint64_t transactions_committed, transactions_aborted; /* delivery = "exactly_once" */
  uint64_t handler_invocations;                          /* calls of handlers that went well */
  uint64_t handler_timeouts; /* runs of an event's handlers longer than handler_timeout_ms */
  uint64_t publish_queued;   /* handed to the producer, not acknowledged yet */
  int64_t lag;               /* offsets behind the ends of the assigned partitions; -1 unknown */
  uint32_t assigned_count;   /* partitions this member owns */
  uint32_t breakers_open;    /* those of them that dead letters stopped */
  mb_health health;          /* as mb_bus_health says */
  uint64_t events_running;   /* one of their handlers goes on after it returned; not parked */
} mb_stats;

/** What happened so far, and how things stand now; asks the broker nothing. */
MB_EXPORT void mb_bus_stats(mb_bus *bus, mb_stats *stats);

typedef enum mb_measure {
  MB_PUBLISH_DURATION, /* of a publish that went well, to the last acknowledgement; in the
                          background: until it is queued */
  MB_CONSUME_DURATION, /* of an event's run, until it is settled or parked */
  MB_HANDLER_DURATION, /* of all its handlers in one run, decoding included */
  MB_BATCH_SIZE,       /* events of a publish that went well */
  MB_MEASURES,
} mb_measure;

/** What a measure's values look like: milliseconds, or events. Quantiles are exact to an eighth. */
typedef struct mb_summary {
  uint64_t count;
  double sum, max, p50, p95, p99;
} mb_summary;

/** A measure since the bus was made. Does not wait.
 *  returns MB_ESTATE with enable_metrics = false */
MB_EXPORT mb_err mb_bus_measure(mb_bus *bus, mb_measure what, mb_summary *summary) MB_MUST_CHECK;

/** lag: offsets behind the end of a partition, as Kafka counts lag; -1 = unknown. Markers of
 * transactions, and offsets whose records compaction took away, are among them. */
typedef void (*mb_lag_fn)(int32_t partition, int64_t lag, void *opaque);
/** Tell the lag of each partition this member owns. Asks the broker nothing. */
MB_EXPORT void mb_bus_lags(mb_bus *bus, mb_lag_fn fn, void *opaque);
/** True when the group has assigned what is ours (be it nothing), nothing is queued or parked, and
 * every assigned partition was read to its end. */
MB_EXPORT bool mb_bus_is_idle(mb_bus *bus);

/** Partition count of a topic (NULL = the bus's own). MB_ETOPIC if it does not exist: asking does
 * not make a broker create it. */
MB_EXPORT mb_err mb_bus_topic_partitions(mb_bus *bus, const char *topic, int *count, char *errstr,
                                         size_t errstr_size) MB_MUST_CHECK;

/* ---- reading without a group ------------------------------------------- */

/** Called per record, oldest first within a partition; return false to end the read. */
typedef bool (*mb_read_fn)(const mb_msg *msg, void *opaque);

typedef struct mb_read_options {
  int32_t partition; /* -1 = all */
  int64_t offset;   /* -1 = from the beginning; else the first offset wanted; -2 = only records that
                       come after the call; -3 - N = the last N records of each partition, counted
                       (not offsets) */
  int64_t since_ms; /* with offset -1: from the first record of that time on; 0 = all */
  bool follow;      /* true = go on past the end until fn says stop or timeout_ms passes */
  int timeout_ms;   /* -1 = none */
  int stall_ms; /* give up (MB_ETIMEOUT) when nothing came for so long before the end; 0 = never */
  const char *group; /* NULL = none; else go on where this group's committed offsets are (offset
                        applies where it has none), and commit what fn was given */
  int64_t *offsets;  /* NULL = none; else where to begin in each partition, in place of offset; set
                        to where to go on: after the last record fn was given, or, once a partition
                        was read to its end, that end. Borrowed for the call */
  int offset_count;  /* of offsets; partitions beyond it are not read */
} mb_read_options;

/** Read a topic from outside any consumer group, up to the end it had when the call began.
 *  returns MB_ETOPIC, MB_ECONNECT, MB_ETIMEOUT, MB_ESTATE */
MB_EXPORT mb_err mb_bus_read(mb_bus *bus, const char *topic, const mb_read_options *options,
                             mb_read_fn fn, void *opaque, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** What the bus's consumer group has committed of its topic, from outside the group.
 *  shape   offsets[i] is partition i's, -1 = nothing; count of them are asked for
 *  returns MB_ECONNECT, MB_ETIMEOUT, MB_EAUTH, MB_EKAFKA */
MB_EXPORT mb_err mb_bus_committed(mb_bus *bus, int64_t *offsets, int count, char *errstr,
                                  size_t errstr_size) MB_MUST_CHECK;

/** Walk the headers in wire order: i from 0 until false. */
MB_EXPORT bool mb_msg_header_at(const mb_msg *msg, size_t i, const char **name, mb_bytes *value);

/* ---- dead letters ------------------------------------------------------ */

/** How many records the dead letter topic holds, counted by mb_topic_count; 0 if it does not exist.
 */
MB_EXPORT mb_err mb_dlq_count(mb_bus *bus, int64_t *count, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;
/** Which dead letters: every member narrows. mb_dlq_filter_init makes one that leaves all of them.
 *  Texts are borrowed for the call it is given to. */
typedef struct mb_dlq_filter {
  const char *event_type;
  const char *key;                   /* the record's key, or the event's aggregate_id */
  const char *reason;                /* dlq_reason */
  const char *error_type;            /* dlq_error_type */
  const char *failed_group;          /* dlq_consumer_group: whose handlers failed */
  int64_t since_ms, until_ms;        /* dead from then on, before then (dlq_timestamp); 0 = open */
  int32_t partition;                 /* of the dead letter; -1 = all */
  int64_t first_offset, last_offset; /* of the dead letter, both included; -1 = open */
  int32_t original_partition;        /* of the event that failed; -1 = all */
  int64_t original_first, original_last;
  /* Any other test: 1 takes the letter, 0 leaves it, -1 ends the call (MB_EINVAL). NULL = none. */
  int (*where)(const mb_msg *letter, void *opaque);
  void *where_opaque;
} mb_dlq_filter;

/** Leaves all of them. */
MB_EXPORT void mb_dlq_filter_init(mb_dlq_filter *filter);

/** Read the dead letters that the filter leaves, oldest first within a partition; none if the topic
 *  does not exist. filter NULL = all. As mb_bus_read otherwise.
 *  timeout_ms  give up (MB_ETIMEOUT) when no record came for so long before the end, however long
 *              the whole read takes; -1 = 60,000 */
MB_EXPORT mb_err mb_dlq_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms,
                             mb_read_fn fn, void *opaque, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** Put one dead letter back on the main topic with its key, value and headers, and wait for the
 *  ack; also one that was replayed before.
 *  returns MB_ENOENT, MB_EREPLAY (replayed dlq_max_replay_attempts times already; force ignores
 * that), MB_EDELIVERY, MB_ESTATE */
MB_EXPORT mb_err mb_dlq_replay(mb_bus *bus, int32_t partition, int64_t offset, bool force,
                               mb_receipt *receipt, char *errstr, size_t errstr_size) MB_MUST_CHECK;

typedef enum mb_replay_outcome {
  MB_REPLAYED,       /* put back and acknowledged; on a dry run: it would be put back */
  MB_REPLAY_REFUSED, /* its event was replayed dlq_max_replay_attempts times already */
  MB_REPLAY_FAILED,  /* not delivered, or what it points to is gone */
  MB_REPLAY_SKIPPED, /* replayed already, or (told on a dry run only) left out by the filter */
} mb_replay_outcome;

/** What became of one dead letter. Views are borrowed until the callback returns. */
typedef struct mb_replay_letter {
  mb_replay_outcome outcome;
  mb_err err;      /* MB_EREPLAY when refused; why it failed */
  const char *why; /* a sentence; "" when replayed */
  int32_t partition;
  int64_t offset; /* of the dead letter */
  mb_bytes event_type, event_id, key;
  int replays;        /* of its event, this one included when outcome is MB_REPLAYED */
  mb_receipt receipt; /* where it went; nowhere on a dry run */
} mb_replay_letter;

typedef struct mb_replay_options {
  mb_dlq_filter filter;
  int64_t limit;     /* at most so many are put back; 0 = all. The next call goes on after them */
  const char *to;    /* the topic they are put on; NULL = the main topic */
  const char *group; /* only this group handles them; "" = every group; NULL = as it was before */
  bool failed_group; /* only the group whose handlers failed handles them; wins over group */
  bool dry_run;      /* tell what would be done, write nothing */
  bool again;        /* also those that were replayed already and did not die since */
  bool force;        /* also those that dlq_max_replay_attempts refuses */
  double rate;       /* at most so many a second; 0 = as fast as they are acknowledged */
  /* What became of each, in their order; false ends the call. NULL = nobody wants to know. */
  bool (*on_letter)(const mb_replay_letter *letter, void *opaque);
  void *opaque;
} mb_replay_options;

typedef struct mb_replay_result {
  int64_t replayed, refused, failed, skipped; /* letters */
  bool more;    /* limit left some, or there were more than 1,000,000 */
  bool stopped; /* mb_bus_stop, an interrupt or on_letter ended it early */
} mb_replay_result;

/** All dead letters, as fast as possible, to the main topic. */
MB_EXPORT void mb_replay_options_init(mb_replay_options *options);

/** Put many dead letters back, each acknowledged before it counts.
 *  order   the events of a key in the order of their original offsets, as their letters' headers
 *          tell (the earliest where an event died more than once); where a key's events came from
 *          several partitions, in the order of their deaths. Across keys: by original offset
 *  once    an event that was put back since its letter was written is skipped (see again), so that
 *          a second call puts back only what died since; dlq_max_replay_attempts counts per event,
 *          over all its letters and copies, but for copies that went to another group alone
 *  memory  the letters are read once (those beyond 32 MiB of records again when their turn comes),
 *          and so are the main topic and the one they go to, from the oldest letter on. At most
 *          1,000,000 letters at a time, some 150 bytes each
 *  group   a replay_group header names the only group that handles the record; moonbus buses of
 *          other groups skip it, other clients do not know it
 *  A bus that consumes goes on meanwhile, but for the time of the two reads.
 *  returns MB_OK also when letters were refused or failed (result counts them); MB_ETOPIC (to does
 *          not exist and is not created), MB_EINVAL, MB_ESTATE, MB_ECONNECT and the like end it:
 *          result tells how far it came */
MB_EXPORT mb_err mb_bus_replay_dlq(mb_bus *bus, const mb_replay_options *options,
                                   mb_replay_result *result, char *errstr,
                                   size_t errstr_size) MB_MUST_CHECK;

/* ---- topics ------------------------------------------------------------ */

/** Create a topic. replication 0 = the broker's default. MB_EINVAL if it exists. */
MB_EXPORT mb_err mb_topic_create(mb_bus *bus, const char *topic, int partitions, int replication,
                                 char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Low and high watermark of one partition. Their difference is no number of records: see
 * mb_topic_count. */
MB_EXPORT mb_err mb_topic_offsets(mb_bus *bus, const char *topic, int32_t partition, int64_t *low,
                                  int64_t *high, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Count a topic's records by reading them: as offsets go also to the markers of transactions, and
 *  to records that compaction or an abort took away, no difference of offsets is a number of
 *  records. Takes as long as the read.
 *  topic    NULL = the bus's own
 *  from     the first offset that counts in each partition (-1 = its beginning); NULL = all records
 *  counts   by partition, count of them; partitions beyond those are not read
 *  returns  MB_ETOPIC, MB_ECONNECT, MB_EAUTH; MB_ETIMEOUT when nothing came for a minute before the
 *           end; MB_ESTATE when mb_bus_stop or an interrupt ended it */
MB_EXPORT mb_err mb_topic_count(mb_bus *bus, const char *topic, const int64_t *from,
                                int64_t *counts, int count, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;

/* ---- the embedded broker ----------------------------------------------- */

typedef struct mb_broker mb_broker;

/** A broker inside this process, on loopback, in memory: for demonstrations and tests. Keeps about
 *  5 MiB per partition, knows no transactions, and makes every topic asked for (4 partitions).
 *  A bus with bootstrap_servers = "embedded" uses one shared by the process. */
MB_EXPORT mb_broker *mb_broker_new(char *errstr, size_t errstr_size);
/** "127.0.0.1:port"; borrowed for the life of the broker. */
MB_EXPORT const char *mb_broker_address(const mb_broker *broker);
MB_EXPORT mb_err mb_broker_topic_create(mb_broker *broker, const char *topic, int partitions,
                                        char *errstr, size_t errstr_size) MB_MUST_CHECK;
MB_EXPORT void mb_broker_free(mb_broker *broker);

/* ---- supervised workers ------------------------------------------------ */

/** Memory that worker processes share with their supervisor: each notes the event it has in hand
 * and how far it has come. A worker that dies then costs that one event an attempt, and the one
 * that takes its place goes on right after it. */
typedef struct mb_watch mb_watch;

/** To be made before the workers are forked; owned. NULL when there is no memory. */
MB_EXPORT mb_watch *mb_watch_new(int workers, char *errstr, size_t errstr_size);
MB_EXPORT void mb_watch_free(mb_watch *watch);

typedef struct mb_watch_state {
  int64_t started_us;       /* when the handler that runs began, CLOCK_MONOTONIC; 0 = none runs */
  int64_t timeout_us;       /* its bus's handler_timeout_ms; 0 = none */
  int64_t memory_max_bytes; /* worker_memory_max_bytes of the worker; 0 = none */
  int64_t shutdown_us;      /* the longest shutdown_timeout of its buses */
  mb_health health;         /* the worst of its buses */
  bool log_json;            /* a bus of any worker logs JSON */
} mb_watch_state;

/** What a worker is at. worker counts from 0. */
MB_EXPORT void mb_watch_look(mb_watch *watch, int worker, mb_watch_state *state);
/** A worker is dead: count it against the event it had in hand. reason ("worker_crashed",
 *  "handler_timeout", "out_of_memory") becomes the dead letter's reason when the event had its last
 *  attempt. false when no handler was running; else text says which event. */
MB_EXPORT bool mb_watch_died(mb_watch *watch, int worker, const char *reason, char *text,
                             size_t text_size);

/* ---- the script host --------------------------------------------------- */

/** The version of the library in use, "0.1.0"; that of the header is MOONBUS_VERSION. Static. */
MB_EXPORT const char *mb_version(void);
/** The same as a number, to compare with MOONBUS_VERSION_NUM. */
MB_EXPORT int mb_version_num(void);
/** The version of the librdkafka in use, "2.0.2". Static. */
MB_EXPORT const char *mb_rdkafka_version(void);
/** What that librdkafka was built with, separated by commas. Borrowed until this thread's next
 * call. */
MB_EXPORT const char *mb_rdkafka_features(void);

#define MB_WHY_MAX 320
/** Something that a configuration may ask for and that not every librdkafka can do. */
typedef struct mb_requirement {
  const char *what;
  const char *since;    /* the first version that can do it */
  const char *feature;  /* NULL = none; an entry that mb_rdkafka_features must have, too */
  bool met;             /* by the librdkafka in use */
  char why[MB_WHY_MAX]; /* empty when met; else which is in use, and how to install another */
} mb_requirement;

/** The i-th of them, i from 0 until false. */
MB_EXPORT bool mb_requirement_at(size_t i, mb_requirement *requirement);

/** A Lua state with the moonbus module in it; runs the command line or single scripts. */
typedef struct mb_host mb_host;
MB_EXPORT mb_host *mb_host_new(char *errstr, size_t errstr_size);
/** Run the command line (argv[0] is the program's name).
 *  returns the process's exit code */
MB_EXPORT int mb_host_main(mb_host *host, int argc, char **argv);
/** Load and run a script in this state; what it subscribes stays subscribed. MB_ESCRIPT with the
 *  message and line in errstr. */
MB_EXPORT mb_err mb_host_run(mb_host *host, const char *path, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;
/** In a worker: buses that scripts of this host make from now on note in the watch what they do,
 *  and join their groups under names made of instance (copied) or static_members, worker and
 *  topic. */
MB_EXPORT void mb_host_watch(mb_host *host, mb_watch *watch, int worker, const char *instance);
/** Ask every bus of the host to stop. Async-signal-safe; any thread. */
MB_EXPORT void mb_host_interrupt(mb_host *host);
MB_EXPORT void mb_host_free(mb_host *host);

#ifdef __cplusplus
}
#endif
#endif
