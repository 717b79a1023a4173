/*
 * moonbus.h: the public interface of libmoonbus.
 *
 * An event bus on Apache Kafka: it publishes events, consumes them as a member of a consumer group,
 * retries failed handlers in order, and writes dead letters.
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
 *   Errors    A function that can fail returns mb_err: MB_OK (0) or a negative code. It writes a
 *             sentence into errstr, which may be NULL. MB_ERRSTR_MAX bytes hold every sentence; in
 *             a smaller buffer the sentence ends with "...". Outputs are written only on success.
 *   NULL      A NULL argument is MB_EINVAL unless its documentation allows NULL. The object itself
 *             (a bus, a broker, a host) must not be NULL, except where it is freed.
 *   Pointers  owned: you free it. borrowed: valid until the moment named. copied: the library keeps
 *             its own copy. taken: the library frees it, also when the call fails.
 *   Threads   A bus belongs to one thread. Only mb_bus_stop() may be called from any thread and
 *             from a signal handler.
 *   Process   The library never exits the process, installs no signal handler, and prints nothing
 *             except log lines.
 */
#ifndef MOONBUS_H
#define MOONBUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the version ------------------------------------------------------- */

/* The version of this header; mb_version() returns that of the library in use. */
#define MOONBUS_VERSION_MAJOR 0
#define MOONBUS_VERSION_MINOR 1
#define MOONBUS_VERSION_PATCH 0
/* A number for comparisons: 100 for 0.1.0, 10203 for 1.2.3. */
#define MOONBUS_VERSION_NUM                                                                        \
  (MOONBUS_VERSION_MAJOR * 10000 + MOONBUS_VERSION_MINOR * 100 + MOONBUS_VERSION_PATCH)
#define MB__QUOTE(text)  #text
#define MB__STRING(text) MB__QUOTE(text)
/* The version as a string, such as "0.1.0". */
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

/** The size of an errstr that holds every sentence of this library, with its NUL. */
#define MB_ERRSTR_MAX 4096

/** All errors: X(name, number, meaning). A number never changes. */
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

/** The name of a code: "EFULL", "OK" for 0, "EUNKNOWN" for a number that is no code. Static. */
MB_EXPORT const char *mb_err_name(mb_err err);
/** The meaning of a code, one sentence without a full stop. Static. */
MB_EXPORT const char *mb_err_text(mb_err err);

/** Bytes without a NUL at their end. {NULL, 0} is absent, {"", 0} is empty. */
typedef struct mb_bytes {
  const char *data;
  size_t len;
} mb_bytes;

/** A view of a C string, without its NUL; the absent view for NULL. Borrowed from s. */
MB_EXPORT mb_bytes mb_str(const char *s);

/* ---- configuration ----------------------------------------------------- */

typedef struct mb_config mb_config;

/** The source of a value. A later source in this list wins over an earlier one. */
typedef enum mb_source { MB_FROM_DEFAULT, MB_FROM_SCRIPT, MB_FROM_ENV, MB_FROM_FLAG } mb_source;

/** A configuration with all options at their defaults. Owned; NULL when out of memory. */
MB_EXPORT mb_config *mb_config_new(void);
/** Free a configuration. NULL allowed. */
MB_EXPORT void mb_config_free(mb_config *conf);

/** Set one option from text.
 *  shape    key as in the manual's option reference; value in the option's type (true or false for
 *           booleans; "" unsets an option whose default is unset)
 *  owns     key and value are copied
 *  returns  MB_OK, also when a higher source has set the option and keeps its value; MB_ECONFIG for
 *           an unknown key (errstr names the nearest one), a wrong type, a value out of bounds, or
 *           one that is not among the choices */
MB_EXPORT mb_err mb_config_set(mb_config *conf, const char *key, const char *value,
                               mb_source source, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Pass a property to librdkafka unchanged, to each client that it applies to.
 *  returns  MB_ECONFIG if librdkafka does not know the property or refuses the value, or if an
 *           option governs the property (errstr names the option) */
MB_EXPORT mb_err mb_config_set_kafka(mb_config *conf, const char *property, const char *value,
                                     char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Set each option from the environment variable MOONBUS_<KEY>, with the source MB_FROM_ENV.
 *  returns  MB_ECONFIG also for a variable whose name is almost that of an option; variables with
 *           other names are ignored */
MB_EXPORT mb_err mb_config_set_env(mb_config *conf, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** An option's value as text. The derived names "topic_name" and "dlq_topic_name" can be read, too.
 *  returns  borrowed until the next set or free; NULL if the option is unset or unknown */
MB_EXPORT const char *mb_config_get(mb_config *conf, const char *key);

/** Check what concerns several options at once: a SASL protocol needs a mechanism, a certificate
 *  needs its key, the heartbeat interval is below the session timeout, topic names are legal.
 *  mb_bus_new calls this function. */
MB_EXPORT mb_err mb_config_check(mb_config *conf, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** One row of the option table, for help texts and generated documents. All strings are static. */
typedef struct mb_option {
  const char *key;
  const char *section; /* "Connection", "Producer", "Consumer", ... */
  const char *type;    /* "string", "integer", "number", "boolean", "choice" */
  const char *choices; /* "a|b|c" for "choice", else NULL */
  const char *def;     /* the default as text; NULL = unset */
  const char *unit;    /* "ms", "s", "bytes", or NULL */
  double min, max;     /* bounds of integer and number */
  const char *kafka;   /* the librdkafka property that the option sets, or NULL */
  bool secret;         /* the value never appears in logs or dumps */
  const char *help;
} mb_option;

/** Row i of the option table; NULL past its end. Static. */
MB_EXPORT const mb_option *mb_option_at(size_t i);

/* ---- logging ----------------------------------------------------------- */

typedef enum mb_level { MB_LOG_ERROR, MB_LOG_WARN, MB_LOG_INFO, MB_LOG_DEBUG } mb_level;

/** Receives each log line of a bus, on the thread of the bus. line has no newline at its end. */
typedef void (*mb_log_fn)(mb_level level, const char *line, void *opaque);
/** Write the lines of mb_log_program as JSON from now on. mb_bus_new does so, too, for a bus whose
 *  log_format is json. */
MB_EXPORT void mb_log_program_json(void);
/** true if the lines of mb_log_program are JSON. */
MB_EXPORT bool mb_log_program_is_json(void);
/** Write a line of the program itself to stderr, such as its final error: prefix and text, or JSON
 *  with time, level, message (text), pid and worker (from MOONBUS_WORKER). */
MB_EXPORT void mb_log_program(mb_level level, const char *prefix, const char *text);

/* ---- events and records ------------------------------------------------ */

/** An event to publish. The views are borrowed for the call. */
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
  /* The W3C trace context, with enable_tracing: absent = that of the event whose handler publishes,
   * empty = none. traceparent and tracestate go together. */
  mb_bytes traceparent, tracestate, baggage;
} mb_event;

/** The result of one published event. */
typedef struct mb_receipt {
  mb_err err;        /* MB_OK once the broker acknowledged it */
  int32_t partition; /* -1 unless err is MB_OK */
  int64_t offset;    /* -1 unless err is MB_OK */
} mb_receipt;

/** A record that a handler is called with. Valid until the handler returns. */
typedef struct mb_msg mb_msg;

/** The record's topic. Borrowed, like the record. */
MB_EXPORT const char *mb_msg_topic(const mb_msg *msg);
/** The record's partition. */
MB_EXPORT int32_t mb_msg_partition(const mb_msg *msg);
/** The record's offset. */
MB_EXPORT int64_t mb_msg_offset(const mb_msg *msg);
/** The record's timestamp in milliseconds since 1970; -1 if the record has none. */
MB_EXPORT int64_t mb_msg_timestamp_ms(const mb_msg *msg);
/** The number of this attempt: 1 at the first delivery, plus one for each retry. A retry_count
 *  header that the record arrived with counts, too. */
MB_EXPORT int mb_msg_attempt(const mb_msg *msg);
/** The record's key; absent if the record has none. Borrowed, like the record. */
MB_EXPORT mb_bytes mb_msg_key(const mb_msg *msg);
/** The record's value; absent if the record has none. Borrowed, like the record. */
MB_EXPORT mb_bytes mb_msg_value(const mb_msg *msg);
/** The event's type: the event_type in the value, else the header; absent if there is neither.
 *  Borrowed, like the record. */
MB_EXPORT mb_bytes mb_msg_event_type(const mb_msg *msg);
/** The first header of a name. For a name that begins with dlq_ it is the last header, which
 *  describes the last time that the event became a dead letter.
 *  returns  MB_ENOENT if there is none */
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

/** One decoded JSON value. The function that returns it says how long its views are valid. */
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

/** A top-level field of the event, by name. Borrowed until the handler returns.
 *  returns  MB_ENOENT if the event has no such field, MB_EDECODE if its value is not valid JSON */
MB_EXPORT mb_err mb_msg_field(const mb_msg *msg, const char *name, mb_value *value);

/* ---- handlers ---------------------------------------------------------- */

typedef enum mb_outcome {
  MB_HANDLED,     /* done */
  MB_FAILED,      /* run this handler again later, up to max_retries; then a dead letter */
  MB_REJECTED,    /* a dead letter at once */
  MB_UNDECODABLE, /* the value is not what the handler needs: a dead letter at once */
  MB_PENDING,     /* not known yet: mb_bus_complete reports it later. Needs mb_bus_pend */
} mb_outcome;

/** Why a handler failed. The bus passes it to the handler, which fills it with mb_fail_set. */
typedef struct mb_fail mb_fail;
/** Set the wait before the next attempt, in place of the usual back-off. For MB_FAILED. */
MB_EXPORT void mb_fail_retry_after(mb_fail *fail, int64_t ms);
/** Set the name of the error, an identifier such as "Timeout", and what happened. Both are copied.
 *  */
MB_EXPORT void mb_fail_set(mb_fail *fail, const char *type, const char *fmt, ...) MB_PRINTF(3, 4);

/** A handler of events. It runs on the thread of the bus. */
typedef mb_outcome (*mb_handler_fn)(const mb_msg *msg, mb_fail *fail, void *opaque);

/* ---- the bus ----------------------------------------------------------- */

typedef struct mb_bus mb_bus;

/* Pending handlers. A handler that has to wait, for an answer that arrives in a poll loop of the
 * program for example, takes a token with mb_bus_pend and returns MB_PENDING. The program calls
 * mb_bus_complete when it knows the outcome.
 *
 * - Up to `concurrency` events (an option, 1 by default) may be pending at once. Then no further
 *   event is given to handlers.
 * - Later events of the same key wait; other keys go on. An offset past a pending event is
 *   committed only together with a note of what is left.
 * - The other handlers of the same event run after the pending one.
 * - If the event's partition is taken away, or consumption ends, the event is delivered again, here
 *   or elsewhere. The handler still has to be completed, without effect. Until then it occupies one
 *   of the places, and the events of its key wait. */

/** Identifies one pending handler. A bus never uses a token twice. 0 = none. */
typedef uint64_t mb_token;

/** Announce, from inside a handler, that it will return MB_PENDING.
 *  shape    msg is the message that the handler was called with
 *  owns     msg and what was read from it are borrowed until the handler returns: copy what is
 *           needed later, or call mb_pending_msg
 *  returns  MB_EUNSUPPORTED with delivery = exactly_once; MB_ESTATE if msg is not the message of
 *           the handler that runs; MB_EINVAL; MB_ENOMEM */
MB_EXPORT mb_err mb_bus_pend(mb_bus *bus, const mb_msg *msg, mb_token *token, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;
/** Report the outcome of a pending handler. mb_bus_fd turns readable, and the next mb_bus_step acts
 *  on the outcome.
 *  shape    outcome is not MB_PENDING; for a failure, fill mb_pending_fail first
 *  thread   that of the bus; allowed from a handler, also before the pending one has returned
 *  returns  MB_ENOENT if no such handler is pending, because it was completed already; MB_EINVAL */
MB_EXPORT mb_err mb_bus_complete(mb_bus *bus, mb_token token, mb_outcome outcome);
/** The failure of a pending handler, to be filled with mb_fail_set and mb_fail_retry_after.
 *  returns  borrowed until the handler is completed; NULL, which those two accept, if there is no
 *           such handler or no memory */
MB_EXPORT mb_fail *mb_pending_fail(mb_bus *bus, mb_token token);
/** The event of a pending handler.
 *  returns  borrowed until the next mb_bus_step; NULL if the handler is not pending, or if the
 *           event's partition was taken away: its outcome has no effect then */
MB_EXPORT const mb_msg *mb_pending_msg(mb_bus *bus, mb_token token);

/** A bus that is not connected yet.
 *  owns     conf is copied
 *  returns  owned; NULL if an option is wrong (errstr names it) or memory ran out */
MB_EXPORT mb_bus *mb_bus_new(const mb_config *conf, char *errstr, size_t errstr_size);
/** Disconnect if necessary, then free. NULL allowed. From inside a handler or callback of this bus
 *  the function only logs an error: free the bus after that has returned. */
MB_EXPORT void mb_bus_free(mb_bus *bus);

/** Set the receiver of log lines; NULL, the default, writes them to stderr. log must not use the
 *  bus. */
MB_EXPORT void mb_bus_set_log(mb_bus *bus, mb_log_fn log, void *opaque);

/** Start the producer, and wait until a broker answers and the topic is known. Does not join the
 *  consumer group.
 *  returns  MB_OK, at once if the bus is connected; MB_ECONNECT; MB_EAUTH; MB_ECONFIG; MB_ETOPIC if
 *           the topic does not exist and the broker does not create it */
MB_EXPORT mb_err mb_bus_connect(mb_bus *bus, int timeout_ms, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;
/** Stop consuming, deliver what is queued, and close. May be called twice. Does not wait for
 *  pending handlers; mb_bus_stop with mb_bus_step does.
 *  returns  MB_EDELIVERY if events were not delivered within the shutdown timeout (errstr counts
 *           them); MB_ESTATE from inside a handler or callback */
MB_EXPORT mb_err mb_bus_disconnect(mb_bus *bus, char *errstr, size_t errstr_size);
/** true between a successful mb_bus_connect and mb_bus_disconnect. */
MB_EXPORT bool mb_bus_is_connected(const mb_bus *bus);
/** true from mb_bus_start until consumption has ended. */
MB_EXPORT bool mb_bus_is_consuming(const mb_bus *bus);
/** The configuration of the bus. Borrowed for the life of the bus. */
MB_EXPORT mb_config *mb_bus_config(mb_bus *bus);

/** Publish events, and wait for every delivery report.
 *  shape    receipts is NULL or has count elements, all of which are written
 *  returns  MB_OK if all events are acknowledged; MB_EEVENT if one is not valid (errstr names event
 *           and field; nothing was sent); MB_EDELIVERY, MB_EFULL or MB_ETIMEOUT if some failed
 *           (errstr names the first one, receipts has all); MB_ESTATE if the bus is not connected
 *           */
MB_EXPORT mb_err mb_bus_publish(mb_bus *bus, const mb_event *events, size_t count,
                                mb_receipt *receipts, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;

/** Receives each background event that was not delivered, on the thread of the bus. Inside it the
 *  bus cannot publish, run or disconnect, and mb_bus_step does nothing. */
typedef void (*mb_publish_error_fn)(mb_err err, const char *reason, mb_bytes event_type,
                                    mb_bytes event_id, void *opaque);
/** Set the receiver of background failures; NULL = none. */
MB_EXPORT void mb_bus_on_publish_error(mb_bus *bus, mb_publish_error_fn fn, void *opaque);

/** Queue events for delivery, and return. Failures are counted and logged, and passed to the
 *  callback.
 *  returns  MB_EFULL if the queue stayed full for queue_full_timeout_ms (*queued is the number of
 *           events in it); MB_EEVENT; MB_ESTATE */
MB_EXPORT mb_err mb_bus_publish_background(mb_bus *bus, const mb_event *events, size_t count,
                                           size_t *queued, char *errstr,
                                           size_t errstr_size) MB_MUST_CHECK;

/** Wait until each queued event is delivered or has failed.
 *  returns  MB_ETIMEOUT if some are still queued after timeout_ms */
MB_EXPORT mb_err mb_bus_flush(mb_bus *bus, int timeout_ms, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;

/** Add a handler. Handlers are called in the order of their subscription: those of the event's type
 *  first, then those for all events. May be called while the bus consumes, also from a handler.
 *  shape    event_type NULL = all events; id is NULL or receives the handle for mb_bus_unsubscribe
 *  owns     event_type is copied; opaque is taken if free_opaque is given, which is called when the
 *           handler is gone */
MB_EXPORT mb_err mb_bus_subscribe(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                                  void *opaque, void (*free_opaque)(void *), uint32_t *id);
/** Options of a subscription. {.max_retries = -1} is the usual one. */
typedef struct mb_subscription_options {
  const char *name; /* the handler's name in dead letters; copied; NULL = none */
  int max_retries;  /* of this handler; -1 = that of the bus */
  /* The tenants whose events the handler receives, as UUIDs in text; "" = events without a tenant.
   * Copied; NULL = every event. An event's tenant is the tenant_id of its value. An event whose
   * tenant_id cannot be read is undecodable for such a handler. */
  const char *const *tenants;
  size_t tenant_count;
} mb_subscription_options;
/** mb_bus_subscribe with options. An event of a tenant that no handler takes is skipped.
 *  returns  MB_EINVAL also if a tenant is not a UUID, or the list of tenants is empty */
MB_EXPORT mb_err mb_bus_subscribe_with(mb_bus *bus, const char *event_type, mb_handler_fn handler,
                                       void *opaque, void (*free_opaque)(void *),
                                       const mb_subscription_options *options, uint32_t *id);
/** Remove a handler.
 *  returns  MB_ENOENT if there is no such subscription */
MB_EXPORT mb_err mb_bus_unsubscribe(mb_bus *bus, uint32_t id);

typedef enum mb_rebalance {
  MB_ASSIGNED, /* this member owns the partitions from now on */
  MB_REVOKED,  /* this member gives them up: no event of them runs any more, and the offsets of what
                  is settled are committed when this returns */
  MB_LOST,     /* another member may own them already: nothing can be committed */
} mb_rebalance;

/** Receives the partitions of a rebalance, on the thread of the bus, before the change takes
 *  effect. Inside it the bus cannot publish, run or disconnect, and mb_bus_step does nothing.
 *  owns     partitions is borrowed for the call */
typedef void (*mb_rebalance_fn)(mb_rebalance what, const int32_t *partitions, size_t count,
                                void *opaque);
/** Set the receiver of rebalances; NULL = none. */
MB_EXPORT void mb_bus_on_rebalance(mb_bus *bus, mb_rebalance_fn fn, void *opaque);

/** Join the consumer group. Returns at once; mb_bus_step does the work.
 *  shape    auto_reconnect false: a lost connection or a fatal error ends consumption with an error
 *  returns  MB_ESTATE if the bus is not connected, or consumes already; MB_ETOPIC if dead letters
 *           are enabled and their topic does not exist and cannot be created */
MB_EXPORT mb_err mb_bus_start(mb_bus *bus, bool auto_reconnect, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;

/** Wait up to timeout_ms (-1 = without limit) for work, then do a slice of it: events, retries that
 *  are due, delivery reports, commits. After mb_bus_stop it finishes the event in hand, waits up to
 *  shutdown_timeout for pending handlers, commits, and leaves the group; then mb_bus_is_consuming
 *  is false.
 *  returns  MB_OK, or the error that ended consumption */
MB_EXPORT mb_err mb_bus_step(mb_bus *bus, int timeout_ms, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** mb_bus_start, then mb_bus_step until mb_bus_stop is called and consumption has ended.
 *  returns  MB_ESTATE from inside a handler or callback; the error that ended consumption */
MB_EXPORT mb_err mb_bus_run(mb_bus *bus, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Ask consumption, or a running mb_bus_read, to end.
 *  thread   any; async-signal-safe */
MB_EXPORT void mb_bus_stop(mb_bus *bus);

/** A descriptor that turns readable when mb_bus_step has work. Poll it from a loop of your own, and
 *  call mb_bus_step at the latest after mb_bus_wait_ms. The bus owns the descriptor. */
MB_EXPORT int mb_bus_fd(const mb_bus *bus);
/** Milliseconds until the bus needs a step even if its descriptor is not readable; at most 1000. */
MB_EXPORT int mb_bus_wait_ms(const mb_bus *bus);

/* ---- health and statistics --------------------------------------------- */

typedef enum mb_health {
  MB_GREEN,
  MB_YELLOW, /* the bus works, but not as it should, or not yet */
  MB_RED,    /* the bus does not work until the cause is fixed */
} mb_health;
/** "green", "yellow" or "red". Static. */
MB_EXPORT const char *mb_health_name(mb_health health);

/** Receives each cause, with its severity.
 *  shape   code is an identifier: red: not_connected, no_broker, no_leader, no_answer, refused,
 *          producer_fatal, consumption_ended, consumer_broken, commits_refused,
 *          transactions_failing, breaker_open, dlq_unwritable; yellow: joining,
 *          partition_full, handlers_waiting; partition -1 unless the cause concerns one
 *  owns    code is static; text, a sentence that says what to do, is borrowed for the call */
typedef void (*mb_health_fn)(mb_health how, const char *code, const char *text, int32_t partition,
                             void *opaque);
/** The state of the bus at this moment: the worst of its causes, MB_GREEN without one. fn, which
 *  may be NULL, receives each cause that still applies. Does not wait. */
MB_EXPORT mb_health mb_bus_health(mb_bus *bus, mb_health_fn fn, void *opaque);

/** Close the circuit breaker of a partition (-1 = of all that this member has). A breaker is open
 *  when too many of a partition's events became dead letters (dlq_breaker_run, dlq_breaker_ratio).
 *  The event that it held back runs at once, and may become a dead letter, like those after it. The
 *  count starts at zero.
 *  shape    reset is NULL or receives the number of breakers that were open
 *  returns  MB_ENOENT if the breaker of that partition is not open; MB_ESTATE from a callback (a
 *           handler may call this function) */
MB_EXPORT mb_err mb_bus_reset_breaker(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                                      size_t errstr_size) MB_MUST_CHECK;
/** Deprecated: the old name of mb_bus_reset_breaker; logs a warning. */
MB_EXPORT mb_err mb_bus_release_brake(mb_bus *bus, int32_t partition, int *reset, char *errstr,
                                      size_t errstr_size) MB_DEPRECATED;

/** Counters since the bus was made, and its state now. */
typedef struct mb_stats {
  uint64_t events_published, events_consumed, events_processed_success, events_processed_failed;
  uint64_t messages_sent_to_dlq, handler_errors, reconnections, rebalance_count;
  int64_t last_publish_at_us, last_consume_at_us, last_error_at_us; /* since 1970; 0 = never */
  int64_t connected_at_us;
  uint64_t publish_errors; /* events that were not delivered */
  uint64_t retries;        /* attempts after the first of an event */
  uint64_t events_expired; /* offsets that the log no longer held when the group reached them */
  uint64_t events_skipped; /* without a subscription, or replayed for another group */
  uint64_t events_dropped; /* failed for good while enable_dlq was false */
  uint64_t events_parked;  /* waiting now: for a retry, for an earlier event of their key, or for
                              the dead letter's acknowledgement */
  uint64_t transactions_committed, transactions_aborted; /* delivery = "exactly_once" */
  uint64_t handler_invocations;                          /* calls of handlers that succeeded */
  uint64_t handler_timeouts; /* attempts that took longer than handler_timeout_ms */
  uint64_t publish_queued;   /* handed to the producer, not acknowledged yet */
  int64_t lag;               /* offsets behind the ends of the assigned partitions; -1 unknown */
  uint32_t assigned_count;   /* partitions this member owns */
  uint32_t breakers_open;    /* those of them that dead letters stopped */
  mb_health health;          /* as mb_bus_health returns it */
  uint64_t events_running;   /* with a pending handler; not among the parked ones */
} mb_stats;

/** Fill stats. Sends no request to the broker. */
MB_EXPORT void mb_bus_stats(mb_bus *bus, mb_stats *stats);

typedef enum mb_measure {
  MB_PUBLISH_DURATION, /* of a publish that succeeded, until the last acknowledgement; in the
                          background: until the events are queued */
  MB_CONSUME_DURATION, /* of an attempt, until the event is settled or parked */
  MB_HANDLER_DURATION, /* of all handlers in one attempt, with decoding */
  MB_BATCH_SIZE,       /* events of a publish that succeeded */
  MB_MEASURES,
} mb_measure;

/** The values of a measure, in milliseconds or events. Quantiles are exact to an eighth. */
typedef struct mb_summary {
  uint64_t count;
  double sum, max, p50, p95, p99;
} mb_summary;

/** A measure since the bus was made. Does not wait.
 *  returns  MB_ESTATE with enable_metrics = false */
MB_EXPORT mb_err mb_bus_measure(mb_bus *bus, mb_measure what, mb_summary *summary) MB_MUST_CHECK;

/** Receives the lag of a partition: the offsets between its end and what is settled; -1 = unknown.
 *  As in Kafka's own lag, markers of transactions and offsets without a record count, too. */
typedef void (*mb_lag_fn)(int32_t partition, int64_t lag, void *opaque);
/** Report the lag of each partition that this member owns. Sends no request to the broker. */
MB_EXPORT void mb_bus_lags(mb_bus *bus, mb_lag_fn fn, void *opaque);
/** true if the group has assigned this member its partitions (possibly none), each of them was read
 *  to its end, and nothing is queued or parked. */
MB_EXPORT bool mb_bus_is_idle(mb_bus *bus);

/** The number of partitions of a topic (NULL = that of the bus). The request does not create a
 *  topic.
 *  returns  MB_ETOPIC if the topic does not exist */
MB_EXPORT mb_err mb_bus_topic_partitions(mb_bus *bus, const char *topic, int *count, char *errstr,
                                         size_t errstr_size) MB_MUST_CHECK;

/* ---- reading without a group ------------------------------------------- */

/** Receives each record, the oldest of a partition first. Returns false to end the read. */
typedef bool (*mb_read_fn)(const mb_msg *msg, void *opaque);

/** What mb_bus_read reads. */
typedef struct mb_read_options {
  int32_t partition; /* -1 = all */
  int64_t offset;    /* the first offset to read; -1 = the beginning; -2 = only records that arrive
                        after the call; -3 - N = the last N records of each partition, counted as
                        records, not as offsets */
  int64_t since_ms;  /* with offset -1: the first record of that time or later; 0 = all */
  bool follow;       /* true = go on past the end until fn returns false or timeout_ms passes */
  int timeout_ms;    /* -1 = none */
  int stall_ms;      /* MB_ETIMEOUT if no record arrives for so long before the end; 0 = no limit */
  const char *group; /* begin at this group's committed offsets (at offset where there are none),
                        and commit what fn received; NULL = no group */
  int64_t *offsets;  /* by partition, the first offset to read, in place of offset. Set to the
                        offset after the last record that fn received or, for a partition that was
                        read to its end, to that end. Borrowed for the call; NULL = none */
  int offset_count;  /* elements of offsets; further partitions are not read */
} mb_read_options;

/** Read a topic outside any consumer group, up to the end that it had when the call began.
 *  returns  MB_ETOPIC, MB_ECONNECT, MB_ETIMEOUT, MB_ESTATE */
MB_EXPORT mb_err mb_bus_read(mb_bus *bus, const char *topic, const mb_read_options *options,
                             mb_read_fn fn, void *opaque, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** The offsets that the bus's consumer group has committed for its topic. The bus need not be a
 *  member.
 *  shape    offsets has count elements, one for each partition from 0 on; -1 = nothing is committed
 *  returns  MB_ECONNECT, MB_ETIMEOUT, MB_EAUTH, MB_EKAFKA */
MB_EXPORT mb_err mb_bus_committed(mb_bus *bus, int64_t *offsets, int count, char *errstr,
                                  size_t errstr_size) MB_MUST_CHECK;

/** The headers in their order on the wire: i from 0 until false. Borrowed, like the record. */
MB_EXPORT bool mb_msg_header_at(const mb_msg *msg, size_t i, const char **name, mb_bytes *value);

/* ---- dead letters ------------------------------------------------------ */

/** The number of records in the dead letter topic, counted by mb_topic_count; 0 if the topic does
 *  not exist. */
MB_EXPORT mb_err mb_dlq_count(mb_bus *bus, int64_t *count, char *errstr,
                              size_t errstr_size) MB_MUST_CHECK;
/** A selection of dead letters: a letter must match every member that is set. mb_dlq_filter_init
 *  makes a filter that matches all of them. The texts are borrowed for the call that the filter is
 *  for. */
typedef struct mb_dlq_filter {
  const char *event_type;
  const char *key;                   /* the record's key, or the event's aggregate_id */
  const char *reason;                /* dlq_reason */
  const char *error_type;            /* dlq_error_type */
  const char *failed_group;          /* dlq_consumer_group: whose handlers failed */
  int64_t since_ms, until_ms;        /* of dlq_timestamp: from then on, before then; 0 = open */
  int32_t partition;                 /* of the dead letter; -1 = all */
  int64_t first_offset, last_offset; /* of the dead letter, both included; -1 = open */
  int32_t original_partition;        /* of the event that failed; -1 = all */
  int64_t original_first, original_last;
  /* Any other test: 1 = it matches, 0 = it does not, -1 = end the call (MB_EINVAL). NULL = none. */
  int (*where)(const mb_msg *letter, void *opaque);
  void *where_opaque;
} mb_dlq_filter;

/** Make a filter that matches every dead letter. */
MB_EXPORT void mb_dlq_filter_init(mb_dlq_filter *filter);

/** Read the dead letters that match the filter (NULL = all), the oldest of a partition first; none
 *  if the topic does not exist.
 *  shape    timeout_ms limits the wait for the next record, not the whole read; -1 = 60,000
 *  returns  as mb_bus_read */
MB_EXPORT mb_err mb_dlq_read(mb_bus *bus, const mb_dlq_filter *filter, int timeout_ms,
                             mb_read_fn fn, void *opaque, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;

/** Write one dead letter back to the main topic with its key, value and headers, and wait for the
 *  acknowledgement. A letter that was replayed before can be replayed again.
 *  returns  MB_ENOENT; MB_EREPLAY if it was replayed dlq_max_replay_attempts times already (force
 *           ignores that); MB_EDELIVERY; MB_ESTATE */
MB_EXPORT mb_err mb_dlq_replay(mb_bus *bus, int32_t partition, int64_t offset, bool force,
                               mb_receipt *receipt, char *errstr, size_t errstr_size) MB_MUST_CHECK;

typedef enum mb_replay_outcome {
  MB_REPLAYED,       /* written back and acknowledged; in a dry run: it would be */
  MB_REPLAY_REFUSED, /* its event was replayed dlq_max_replay_attempts times already */
  MB_REPLAY_FAILED,  /* not delivered, or the record that it points to is gone */
  MB_REPLAY_SKIPPED, /* replayed already, or (reported in a dry run only) left out by the filter */
} mb_replay_outcome;

/** The result of one dead letter. The views are borrowed until the callback returns. */
typedef struct mb_replay_letter {
  mb_replay_outcome outcome;
  mb_err err;      /* MB_EREPLAY if refused; the error of a failure */
  const char *why; /* a sentence; "" if replayed */
  int32_t partition;
  int64_t offset; /* of the dead letter */
  mb_bytes event_type, event_id, key;
  int replays;        /* of its event, with this one if outcome is MB_REPLAYED */
  mb_receipt receipt; /* of the record that was written; empty in a dry run */
} mb_replay_letter;

/** What mb_bus_replay_dlq replays, and how. mb_replay_options_init sets the defaults. */
typedef struct mb_replay_options {
  mb_dlq_filter filter;
  int64_t limit;     /* the most letters to write back; 0 = all. The next call continues after them
                        */
  const char *to;    /* the topic to write them to; NULL = the main topic */
  const char *group; /* the only group that handles them; "" = every group; NULL = as before */
  bool failed_group; /* only the group whose handlers failed handles them; wins over group */
  bool dry_run;      /* report what would be done, write nothing */
  bool again;        /* also letters that were replayed already and did not fail again since */
  bool force;        /* also letters that dlq_max_replay_attempts refuses */
  double rate;       /* the most letters a second; 0 = as fast as they are acknowledged */
  /* Receives the result of each letter, in their order; false ends the call. NULL = none. */
  bool (*on_letter)(const mb_replay_letter *letter, void *opaque);
  void *opaque;
} mb_replay_options;

/** The sums of a replay. */
typedef struct mb_replay_result {
  int64_t replayed, refused, failed, skipped; /* letters */
  bool more;    /* limit left some, or there were more than 1,000,000 */
  bool stopped; /* mb_bus_stop, an interrupt or on_letter ended the replay early */
} mb_replay_result;

/** Set the defaults: all dead letters, as fast as possible, to the main topic. */
MB_EXPORT void mb_replay_options_init(mb_replay_options *options);

/** Write many dead letters back, each acknowledged before it counts. A bus that consumes continues
 *  meanwhile, except during the two reads.
 *  order    The events of a key, in the order of their original offsets, which the letters' headers
 *           have (the earliest one for an event that failed more than once). Events of a key from
 *           several partitions go in the order in which they became dead letters. Different keys go
 *           by original offset.
 *  once     An event that was written back since its letter was written is skipped (see again), so
 *           that a second call replays only what failed since. dlq_max_replay_attempts counts for
 *           each event, over all its letters and copies, except copies for another group alone.
 *  memory   The letters are read once (those beyond 32 MiB of records again when their turn comes),
 *           and so are the main topic and the one written to, from the oldest letter on. At most
 *           1,000,000 letters at a time, at about 150 bytes each.
 *  group    A replay_group header names the only group that handles the record. moonbus buses of
 *           other groups skip it; other clients ignore the header.
 *  returns  MB_OK also if letters were refused or failed (result counts them); MB_ETOPIC (to does
 *           not exist and is not created), MB_EINVAL, MB_ESTATE, MB_ECONNECT and others end the
 *           replay, and result has the sums so far */
MB_EXPORT mb_err mb_bus_replay_dlq(mb_bus *bus, const mb_replay_options *options,
                                   mb_replay_result *result, char *errstr,
                                   size_t errstr_size) MB_MUST_CHECK;

/* ---- topics ------------------------------------------------------------ */

/** Create a topic.
 *  shape    replication 0 = the broker's default
 *  returns  MB_EINVAL if the topic exists */
MB_EXPORT mb_err mb_topic_create(mb_bus *bus, const char *topic, int partitions, int replication,
                                 char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** The low and high watermark of a partition. Their difference is not the number of records: see
 *  mb_topic_count. */
MB_EXPORT mb_err mb_topic_offsets(mb_bus *bus, const char *topic, int32_t partition, int64_t *low,
                                  int64_t *high, char *errstr, size_t errstr_size) MB_MUST_CHECK;

/** Count a topic's records by reading them. No difference of offsets is a number of records,
 *  because markers of transactions have offsets, too, and so have records that compaction or an
 *  abort removed. The call takes as long as the read.
 *  shape    topic NULL = that of the bus; from: by partition, the first offset that counts (-1 =
 *           the beginning), NULL = all records; counts has count elements; further partitions are
 *           not read
 *  returns  MB_ETOPIC; MB_ECONNECT; MB_EAUTH; MB_ETIMEOUT if no record arrived for a minute before
 *           the end; MB_ESTATE if mb_bus_stop or an interrupt ended the read */
MB_EXPORT mb_err mb_topic_count(mb_bus *bus, const char *topic, const int64_t *from,
                                int64_t *counts, int count, char *errstr,
                                size_t errstr_size) MB_MUST_CHECK;

/* ---- the embedded broker ----------------------------------------------- */

typedef struct mb_broker mb_broker;

/** A broker inside this process, on loopback and in memory, for demonstrations and tests. It keeps
 *  about 5 MiB for each partition, supports no transactions, and creates every topic that is
 *  requested, with 4 partitions. All buses of a process with bootstrap_servers = "embedded" share
 *  one.
 *  returns  owned; NULL on failure */
MB_EXPORT mb_broker *mb_broker_new(char *errstr, size_t errstr_size);
/** The broker's address, "127.0.0.1:PORT". Borrowed for the life of the broker. */
MB_EXPORT const char *mb_broker_address(const mb_broker *broker);
/** Create a topic. MB_EINVAL if it exists. */
MB_EXPORT mb_err mb_broker_topic_create(mb_broker *broker, const char *topic, int partitions,
                                        char *errstr, size_t errstr_size) MB_MUST_CHECK;
/** Free a broker. NULL allowed. */
MB_EXPORT void mb_broker_free(mb_broker *broker);

/* ---- supervised workers ------------------------------------------------ */

/** Memory that worker processes share with their supervisor. Each worker notes the event in hand
 *  and its progress there. The death of a worker then costs that one event an attempt, and the
 *  worker that replaces it continues after that event. */
typedef struct mb_watch mb_watch;

/** Make the shared memory, before the workers are forked. Owned; NULL when out of memory. */
MB_EXPORT mb_watch *mb_watch_new(int workers, char *errstr, size_t errstr_size);
/** Free the shared memory. NULL allowed. */
MB_EXPORT void mb_watch_free(mb_watch *watch);

/** The state of a worker. */
typedef struct mb_watch_state {
  int64_t started_us;       /* start of the handler that runs, CLOCK_MONOTONIC; 0 = none runs */
  int64_t timeout_us;       /* handler_timeout_ms of its bus; 0 = none */
  int64_t memory_max_bytes; /* worker_memory_max_bytes of the worker; 0 = none */
  int64_t shutdown_us;      /* the longest shutdown_timeout of its buses */
  mb_health health;         /* the worst of its buses */
  bool log_json;            /* true if a bus of any worker logs JSON */
} mb_watch_state;

/** Read the state of a worker. worker counts from 0. */
MB_EXPORT void mb_watch_look(mb_watch *watch, int worker, mb_watch_state *state);
/** Count the death of a worker as a failed attempt of the event it had in hand.
 *  shape    reason ("worker_crashed", "handler_timeout", "out_of_memory") becomes the dead letter's
 *           reason if that was the event's last attempt; text receives which event it was
 *  returns  true if a handler was running */
MB_EXPORT bool mb_watch_died(mb_watch *watch, int worker, const char *reason, char *text,
                             size_t text_size);

/* ---- the script host --------------------------------------------------- */

/** The version of the library in use, such as "0.1.0". MOONBUS_VERSION is that of the header.
 *  Static. */
MB_EXPORT const char *mb_version(void);
/** The same as a number, for comparisons with MOONBUS_VERSION_NUM. */
MB_EXPORT int mb_version_num(void);
/** The version of the librdkafka in use, such as "2.0.2". Static. */
MB_EXPORT const char *mb_rdkafka_version(void);
/** The features that this librdkafka was built with, separated by commas. Borrowed until the next
 *  call on this thread. */
MB_EXPORT const char *mb_rdkafka_features(void);

#define MB_WHY_MAX 320
/** Something that a configuration may require and that not every librdkafka supports. */
typedef struct mb_requirement {
  const char *what;
  const char *since;    /* the first version that supports it */
  const char *feature;  /* an entry that mb_rdkafka_features must have, too; NULL = none */
  bool met;             /* true if the librdkafka in use supports it */
  char why[MB_WHY_MAX]; /* empty if met; else the version in use, and how to install another */
} mb_requirement;

/** The requirements in turn: i from 0 until false. */
MB_EXPORT bool mb_requirement_at(size_t i, mb_requirement *requirement);

/** A Lua state with the moonbus module in it, which runs the command line or single scripts. */
typedef struct mb_host mb_host;
/** Make a host. Owned; NULL on failure. */
MB_EXPORT mb_host *mb_host_new(char *errstr, size_t errstr_size);
/** Run the command line. argv[0] is the name of the program.
 *  returns  the exit code of the process */
MB_EXPORT int mb_host_main(mb_host *host, int argc, char **argv);
/** Load and run a script in this state. Its subscriptions remain.
 *  returns  MB_ESCRIPT, with message and line in errstr */
MB_EXPORT mb_err mb_host_run(mb_host *host, const char *path, char *errstr,
                             size_t errstr_size) MB_MUST_CHECK;
/** In a worker process: buses that scripts of this host make from now on note their progress in the
 *  watch. They join their groups under names made of instance (copied) or static_members, the
 *  worker and the topic. */
MB_EXPORT void mb_host_watch(mb_host *host, mb_watch *watch, int worker, const char *instance);
/** Ask every bus of the host to stop.
 *  thread   any; async-signal-safe */
MB_EXPORT void mb_host_interrupt(mb_host *host);
/** Free a host, with its buses. NULL allowed. */
MB_EXPORT void mb_host_free(mb_host *host);

#ifdef __cplusplus
}
#endif
#endif
