/* lua/internal.h: what the Lua side's files share. Only lua_*.c include it.
 *
 * A function marked RAISES may leave by a Lua error (longjmp): whatever it must not lose lives in a
 * userdata with __gc, or in storage of the bus, before it is called. */
#ifndef MB_LUA_INTERNAL_H
#define MB_LUA_INTERNAL_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "bus/internal.h"
#include "event/codec.h"
#include "moonbus_lua.h"

#define RAISES

#define BUS_META  "moonbus.bus"
#define TYPE_META "moonbus.type"
#define CTX_META  "moonbus.context"

/* An event type: its schema, and the Lua function that makes an instance of its fields' values. */
typedef struct mbl_type {
  mb_schema *schema;
  unsigned id;  /* no other type's, ever; 0 is none's */
  int make_ref; /* registry references; LUA_NOREF until set */
  int call_ref; /* as finish says */
  int defaults_ref, fill_ref;
  int lift_ref;   /* of the function that lifts older events; LUA_NOREF or LUA_REFNIL = none */
  int names_ref;  /* keeps the fields' names in the state */
  int spread_ref; /* as finish says; none when an instance may have more than its fields */
  const void *names[MB_FIELDS_MAX];   /* where they are: a table's key is known by its address */
  unsigned char order[MB_FIELDS_MAX]; /* the fields as a table had them the last time */
  bool has_default[MB_FIELDS_MAX];
} mbl_type;

/* A bus as Lua holds it. */
typedef struct mbl_context mbl_context;

typedef struct mbl_guard mbl_guard;

typedef struct mbl_bus {
  mb_bus *bus;
  lua_State *L; /* the thread that entered last: callbacks run on it */
  mb_decoder decoder;
  mb_buf scratch; /* own fields while an event is encoded */
  mb_buf metadata;
  mb_buf lifted;   /* an older event as the declared version has it: what decoder points into */
  int context_ref; /* the context handed to handlers */
  int trace_ref, protect_ref; /* functions around each call of a handler */
  struct mbl_call *call;      /* that is under way; NULL = none */
  mbl_context *context;       /* the same, as it lies in memory */
  size_t fibers;              /* calls of its handlers in coroutines */
  int registry_ref;           /* event type name -> type table */
  int log_ref, publish_error_ref, rebalance_ref, unit_ref; /* callbacks; LUA_NOREF = none */
  mbl_guard *guard;   /* NULL = its handlers have no limits, or it is not connected */
  int64_t time_us;    /* guard = "strict": the longest run of a handler; 0 = any */
  size_t memory_most; /* lua_memory_max_bytes; 0 = any */
} mbl_bus;

/* The context a handler gets as its second argument; msg is NULL between handlers. */
struct mbl_context {
  const mb_msg *msg;
  int64_t version; /* that the event had on the topic */
  bool tracing;    /* the bus's */
  bool abandoned;  /* the event is no longer ours; of a fiber */
};

/* A call of a handler in a coroutine of its own: the userdata that is its context. What waits
 * for something keeps the thread, by which the fiber is found. */
typedef struct mbl_fiber {
  mbl_context context; /* first: the handler's functions know no more */
  lua_State *co;
  struct mbl_handler *handler;
  mb_token token; /* 0 = it has not waited yet */
  bool has_on_fail;
} mbl_fiber;

/* ---- lua/convert.c: JSON <-> Lua values ---- */

/* The state's tables and functions that conversion needs; called once by luaopen. RAISES */
void mb__lua_convert_open(lua_State *L);
/* Push a decoded value. RAISES (memory, or JSON that was not validated) */
void mb__lua_push_value(lua_State *L, const mb_value *value);
/* Push what a JSON text says. RAISES nothing but memory; false (an error message pushed) if it is
 * not JSON. */
bool mb__lua_push_json(lua_State *L, mb_bytes text);
/* Push the list that a T[] is, its elements as fields of type T are. RAISES (memory, or text that
 * was not decoded as such) */
void mb__lua_push_list(lua_State *L, mb_bytes text, mb_type type);
/* Append the value at index as JSON. as_object: an empty plain table is {} (else by its array
 * mark). Fails with a reason pushed on the stack; nothing pushed on success. */
bool mb__lua_write_json(lua_State *L, int index, mb_buf *buf);
/* The metatable that marks arrays. */
void mb__lua_push_array_mark(lua_State *L);
/* Push an array for so many elements: what scripts are given is a list in JSON, too, when it is
 * empty. RAISES (memory) */
void mb__lua_new_array(lua_State *L, int size);
/* Push a table whose keys are numbers, such as partitions: in JSON an object. RAISES (memory) */
void mb__lua_new_numbered(lua_State *L);
/* Integers that need not fit a double. false = not an integer in range. */
/* Push the number of a moonbus.float; false if it is none or not finite. */
bool mb__lua_to_float(lua_State *L, int index);
bool mb__lua_to_integer(lua_State *L, int index, mb_value *value);
/* moonbus.json.encode, .decode; moonbus.array */
int mb__l_json_encode(lua_State *L);
int mb__l_json_decode(lua_State *L);
int mb__l_set_int64(lua_State *L);
int mb__l_set_sort(lua_State *L);

/* ---- lua/base.c ---- */

/* Push a table of Lua's functions and of copies of its libraries, by their names. RAISES (memory, a
 * global that is not what Lua had there) */
void mb__lua_push_base(lua_State *L);

/* ---- lua/type.c: types, construction, encoding ---- */

/* core.type(name, {{field, spec}, ...}) -> type userdata */
int mb__l_type_new(lua_State *L);
int mb__l_type_finish(lua_State *L);
int mb__l_type_loosen(lua_State *L);
int mb__l_type_fields(lua_State *L);
int mb__l_type_check(lua_State *L);
int mb__l_type_gc(lua_State *L);
mbl_type *mb__lua_check_type(lua_State *L, int index);
/* The type of a type table, which is its instances' metatable; NULL if it is none. */
mbl_type *mb__lua_type_in(lua_State *L, int index);
/* Push the values of the table's fields in the schema's order, and say which it has (room for
 * MB_FIELDS_MAX). Whether it has no other keys. RAISES (memory) */
bool mb__lua_pull(lua_State *L, mbl_type *type, int index, bool *present);
/* The same for an instance, of which it need not be said; type NULL: the base fields of a table
 * that may have any others. */
bool mb__lua_spread(lua_State *L, mbl_type *type, int index);
/* Push the value of field i. RAISES (memory) */
void mb__lua_push_field(lua_State *L, const mb_schema *schema, const mb_decoder *decoder, size_t i);
/* Push an instance of a decoded event. RAISES (memory, a bad make function) */
void mb__lua_push_event(lua_State *L, const mbl_type *type, const mb_decoder *decoder);
/* The same for an undeclared type: every member of the value, the base fields as decoded. RAISES */
void mb__lua_push_untyped(lua_State *L, mb_bytes value, const mb_decoder *decoder);
int mb__l_set_untyped(lua_State *L);
void mb__lua_push_untyped_call(lua_State *L);

/* ---- lua/fields.c: what of an event a handler is given ---- */

typedef struct mbl_pick {
  unsigned type_id; /* 0 = events of undeclared types */
  bool all;         /* whatever the handler reads */
  bool made;
  const mb_schema *schema; /* what the events are decoded by */
  mb_schema *own;          /* the same, if it is nobody else's */
  int call_ref; /* function(handler, context, values...); LUA_NOREF = every member, as they are */
  size_t count; /* the values: of these fields */
  unsigned char fields[MB_FIELDS_MAX];
} mbl_pick;

/* Of one handler. */
typedef struct mbl_picks {
  mbl_pick **list; /* owned */
  size_t count;
  int reads_ref; /* names of the fields it reads; LUA_NOREF = any */
} mbl_picks;

/* What the handler is given of a type's events (NULL = of undeclared types'). Good until the next
 * call. RAISES (memory) */
const mbl_pick *mb__lua_pick(lua_State *L, mbl_picks *picks, const mbl_type *type);
void mb__lua_picks_free(lua_State *L, mbl_picks *picks);

/* Behind the refusal of what is no UUID. */
#define MBL_UUID_HINT                                                                              \
  "; moonbus.uuid() makes a random one, moonbus.uuid(name) that of a business key"

/* ---- lua/construct.c: values that are to be fields; index counts from the stack's bottom ---- */

/* Give the value its normal form, in its place. false: a reason is pushed. RAISES (memory) */
bool mb__lua_normalise(lua_State *L, const mb_schema *schema, const mb_field *field, int index);
/* It is nil or null. */
bool mb__lua_absent(lua_State *L, int index);
/* The value is none: nil, or null where null is no value of its own. */
bool mb__lua_lacks(lua_State *L, const mb_field *field, int index);
/* Push "Type.field: expected ..., got ..." and return false. */
bool mb__lua_refuse(lua_State *L, const mb_schema *schema, const mb_field *field, int index,
                    const char *hint);
/* Push a sentence on the first key that is no field of the type; false if there is none. */
bool mb__lua_push_unknown(lua_State *L, const mb_schema *schema, int given);
/* What is made now has today's fields: called older, it would be lifted once more when it is read.
 */
int64_t mb__lua_lowest_version(const mb_schema *schema);

/* ---- lua/encode.c ---- */

/* Encode the event at index into the bus's encoder. false: a reason is pushed. RAISES (memory) */
bool mb__lua_encode(lua_State *L, mbl_bus *lb, int index);

/* ---- lua/guard.c: limits on what handlers take ---- */

typedef enum mbl_excess { MBL_WITHIN, MBL_TOO_LONG, MBL_TOO_MUCH } mbl_excess;

/* The engine's call of a Lua function, on the C stack. Runs nest: a handler that waits lets other
 * buses run theirs. */
typedef struct mbl_run {
  mbl_bus *lb;
  lua_State *L; /* the bus's thread, and again once the run is over: a script's own may be gone */
  mbl_guard *guard; /* NULL: nothing in this state has limits */
  struct mbl_run *outer;
  int64_t deadline_us; /* 0 = none */
  size_t memory_most;  /* 0 = none */
  mbl_excess excess;   /* stays what it is once it is not MBL_WITHIN */
  mb_fail *fail;       /* gets the place where a run was that took too long */
} mbl_run;

/* A bus with limits connects: the state gets its guard. Fails with a sentence in why. RAISES
 * (memory) */
mb_err mb__guard_open(lua_State *L, mbl_bus *lb, char *why, size_t why_size);
/* It has disconnected. Nothing to do for a bus without limits. RAISES (memory) */
void mb__guard_close(lua_State *L, mbl_bus *lb);
/* The same for a bus that is collected: the compiler stays as it is. */
void mb__guard_forget(lua_State *L, mbl_bus *lb);
/* Around whatever the engine calls in Lua: the limits of an outer run do not hold within. */
void mb__guard_enter(mbl_bus *lb, mbl_run *run);
void mb__guard_leave(mbl_run *run);
/* Between these, the limits of lb's handlers hold. Only a protected call may stand there: memory is
 * refused at any allocation, and an error is thrown at any instruction. */
void mb__guard_limit(mbl_bus *lb, mbl_run *run, mb_fail *fail);
void mb__guard_lift(mbl_run *run);
/* So many milliseconds, or less: what the handler that waits has left. */
int mb__guard_wait_ms(lua_State *L, int wait_ms);
int mb__l_on_excess(lua_State *L);
int mb__l_run_level(lua_State *L);

/* ---- lua/upcast.c: events of older versions ---- */

int mb__l_type_set_version(lua_State *L);
/* Decode a value into the bus's decoder: an event of the type, lifted to its declared version if it
 * is older, or of none (type NULL), by that schema. msg (NULL = none) says what chose the handlers,
 * which is what they see. *version is what the event had itself. why: of an error. RAISES
 * (memory) */
mb_err mb__lua_decode(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_schema *schema,
                      mb_bytes value, const mb_origin *origin, const mb_msg *msg, int64_t *version,
                      char *why, size_t why_size);

/* ---- lua/handler.c: a Lua function as a handler ---- */

typedef struct mbl_handler {
  mbl_bus *lb;
  int function_ref;
  int type_ref;         /* keeps the type alive; LUA_NOREF: looked up by name, event by event */
  const mbl_type *type; /* NULL: see above */
  mbl_picks picks;
  int retry_if_ref; /* LUA_NOREF: every failure is worth a retry */
  char *name;       /* owned; NULL = none */
} mbl_handler;

/* What the protected call works on. */
typedef struct mbl_call {
  mbl_handler *handler;
  const mbl_type *type; /* NULL: undeclared */
  const mb_msg *msg;
  mb_fail *fail;
  mb_outcome outcome;
} mbl_call;

/* Make the functions that calls of handlers go through; once per bus. RAISES */
void mb__lua_handlers_open(lua_State *L, mbl_bus *lb);
int mb__l_bus_subscribe(lua_State *L);
int mb__l_bus_unsubscribe(lua_State *L);
/* Push the event of a record; the context receives its version. Nothing pushed on an error. RAISES
 */
mb_err mb__lua_push_msg(lua_State *L, mbl_bus *lb, const mbl_type *type, const mb_msg *msg,
                        char *why, size_t why_size);
/* Push a table with everything of a record. RAISES */
void mb__lua_push_record(lua_State *L, const mb_msg *msg);

/* ---- lua/outcome.c ---- */

/* describe(error value) -> type, message, moonbus_outcome, after: those of a table, or what its
 * __tostring says; to be called protected: it runs metamethods, whatever a script wrote into them.
 */
int mb__lua_describe(lua_State *L);
/* What the handler's two results, on the top, say. */
mb_outcome mb__lua_read_results(lua_State *L, mb_fail *fail);
/* What a call came to that is over; failed: by the error on the top. The limits are lifted already.
 * context: where it lies on the stack; 0 = it is the bus's. Leaves values on the stack. */
mb_outcome mb__lua_outcome(lua_State *L, mbl_handler *handler, const mbl_run *guarded, bool failed,
                           mb_outcome outcome, mb_fail *fail, int context);

/* ---- lua/context.c ---- */

int mb__l_context_index(lua_State *L);

/* ---- lua/fiber.c: handlers in coroutines, with concurrency above 1 ---- */

/* The state's tables for them; once. RAISES */
void mb__lua_fibers_open(lua_State *L);
/* Remember a bus, at index, by its address. RAISES */
void mb__lua_fibers_know(lua_State *L, int index);
/* Push context and thread of a new one. RAISES */
mbl_fiber *mb__lua_fiber_new(lua_State *L, mbl_handler *handler);
/* Run the one whose context is at index, the thread above it, to its first wait or its end. Lifts
 * the limits. */
mb_outcome mb__lua_fiber_start(lua_State *L, int index, const mb_msg *msg, int count,
                               mbl_run *guarded, mb_fail *fail);
int mb__l_may_wait(lua_State *L);
int mb__l_yield(lua_State *L);
int mb__l_resume(lua_State *L);
int mb__l_on_fail(lua_State *L);

/* ---- lua/bus.c, lua/publish.c: methods of a bus; what each takes and gives stands where it is
 * ---- */

int mb__l_bus_new(lua_State *L);
int mb__l_bus_gc(lua_State *L);
int mb__l_bus_config(lua_State *L);
int mb__l_bus_is_default(lua_State *L);
int mb__l_bus_on_log(lua_State *L);
int mb__l_bus_on_publish_error(lua_State *L);
int mb__l_bus_on_rebalance(lua_State *L);
int mb__l_bus_on_unit(lua_State *L);
int mb__l_bus_unit_begin(lua_State *L);
int mb__l_bus_connect(lua_State *L);
int mb__l_bus_disconnect(lua_State *L);
int mb__l_bus_is_connected(lua_State *L);
int mb__l_bus_is_consuming(lua_State *L);
int mb__l_bus_is_idle(lua_State *L);
int mb__l_bus_in_handler(lua_State *L);
int mb__l_bus_log(lua_State *L);
int mb__l_log(lua_State *L);
int mb__l_say(lua_State *L);
int mb__l_says_json(lua_State *L);
int mb__l_bus_start(lua_State *L);
int mb__l_bus_stop(lua_State *L);
int mb__l_bus_flush(lua_State *L);
int mb__l_bus_stats(lua_State *L);
int mb__l_bus_skipped(lua_State *L);
int mb__l_bus_measures(lua_State *L);
int mb__l_bus_lags(lua_State *L);
int mb__l_bus_health(lua_State *L);
int mb__l_bus_reset_breaker(lua_State *L);
int mb__l_bus_topic_partitions(lua_State *L);
int mb__l_bus_topic_offsets(lua_State *L);
int mb__l_bus_topic_count(lua_State *L);
int mb__l_bus_topic_create(lua_State *L);
int mb__l_bus_publish(lua_State *L);
int mb__l_bus_publish_json(lua_State *L);
int mb__l_bus_encode(lua_State *L);
int mb__l_bus_decode(lua_State *L);

/* ---- lua/read.c: reading outside any group ---- */

int mb__l_bus_read(lua_State *L);
int mb__l_bus_event_in_hand(lua_State *L);
int mb__l_bus_low_water(lua_State *L);
int mb__l_bus_committed(lua_State *L);

/* ---- lua/dlq.c: dead letters ---- */

#define REPLAY_META "moonbus.replay"

int mb__l_bus_dlq_count(lua_State *L);
int mb__l_bus_dlq_replay(lua_State *L);
int mb__l_bus_dlq_read(lua_State *L);
int mb__l_bus_replay_open(lua_State *L);
int mb__l_replay_step(lua_State *L);
int mb__l_replay_close(lua_State *L);

/* ---- lua/turn.c ---- */

int mb__l_turn(lua_State *L);

/* ---- lua/common.c ---- */

/* mb__text_keep of the text at index. */
void mb__lua_keep_text(lua_State *L, int index, char *text, size_t size);
/* The name at index; one with a NUL byte raises, as it would be taken for what is before that. */
const char *mb__lua_check_name(lua_State *L, int index, const char *what);
static inline const char *mb__lua_opt_name(lua_State *L, int index, const char *what,
                                           const char *otherwise) {
  return lua_isnoneornil(L, index) ? otherwise : mb__lua_check_name(L, index, what);
}
/* nil for absent bytes. */
void mb__lua_push_bytes(lua_State *L, mb_bytes bytes);

mbl_bus *mb__lua_check_bus(lua_State *L, int index);
/* A descriptor that ends every turn with "interrupted"; the host's. */
void mb__lua_set_interrupt_fd(lua_State *L, int fd);
int mb__lua_interrupt_fd(lua_State *L); /* -1 = none */
/* What a supervisor gave the host: buses made in this state note there what they do. */
typedef struct mbl_watch {
  mb_watch *watch;
  int worker, buses; /* buses made so far */
  char instance[128];
} mbl_watch;
void mb__lua_set_watch(lua_State *L, const mbl_watch *watch);
mbl_watch *mb__lua_watch(lua_State *L); /* NULL = no supervisor */
/* nil, "CODE: text", "CODE" */
int mb__lua_fail(lua_State *L, mb_err err, const char *text);
/* true, or as mb__lua_fail. */
int mb__lua_done(lua_State *L, mb_err err, const char *text);

#endif
