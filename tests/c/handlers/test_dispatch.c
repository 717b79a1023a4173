/* test_dispatch.c: which handlers an event finds, in which order, and what they came to together.
 * Must not need a broker.
 * Run by ctest; MB_SEED chooses the random operations. */
#include <inttypes.h>
#include <stdlib.h>

#include "check.h"
#include "handlers/dispatch.h"

/* ---- handlers that note that they ran ---- */

static mb_dispatch d;
static mb_result result;
static mb_tenant tenant; /* of the next event */
static char ran[512];    /* names of the handlers that ran, in order */
static int freed;

typedef struct probe {
  const char *name;
  mb_outcome outcome;
  const char *type, *why; /* of its failure; NULL = it gives none */
  uint32_t id;
  uint32_t remove;     /* unsubscribes this one while it runs; 0 = none */
  struct probe *adds;  /* subscribes this one while it runs */
  const char *adds_to; /* to this type; NULL = all events */
} probe;

static mb_outcome note(const mb_msg *msg, mb_fail *fail, void *opaque) {
  probe *p = opaque;
  (void)msg;
  strncat(ran, p->name, sizeof ran - strlen(ran) - 1);
  if (p->why) mb_fail_set(fail, p->type, "%s", p->why);
  if (p->remove) ok(mb__dispatch_remove(&d, p->remove) == MB_OK, "%s unsubscribes", p->name);
  if (p->adds) {
    probe *add = p->adds;
    p->adds = NULL;
    ok(mb__dispatch_add(&d, p->adds_to, note, add, NULL, NULL, &add->id) == MB_OK, "%s subscribes",
       p->name);
  }
  return p->outcome;
}

static void on_free(void *opaque) {
  (void)opaque;
  freed++;
}

static void add(const char *type, probe *p) {
  if (mb__dispatch_add(&d, type, note, p, on_free, NULL, &p->id))
    ok(false, "%s subscribes", p->name);
}

static const char *run(const char *type, const mb_ids *only) {
  ran[0] = 0;
  mb_iteration iteration;
  mb__dispatch_run(&d, NULL, mb_str(type), &tenant, only, &iteration, &result);
  return ran;
}

static void says(const char *what, const char *got, const char *expected) {
  same(what, got, strlen(got), expected);
}

static void clean(void) {
  mb__dispatch_free(&d);
  mb__ids_free(&result.failed);
  mb__ids_free(&result.final);
  result = (mb_result){0};
}

/* ---- facts ---- */

static void order(void) { /* 6 13 */
  probe a = {.name = "a"}, b = {.name = "b"}, w = {.name = "w"}, v = {.name = "v"},
        c = {.name = "c"};
  add(NULL, &w);
  add("A", &a);
  add("B", &c);
  add(NULL, &v);
  add("A", &b);
  says("the type's own run first, then those for all, each in order", run("A", NULL), "abwv");
  ok(result.run_count == 4 && !result.failed_count && !result.rejected_count, "all did well");
  says("another type has its own", run("B", NULL), "cwv");
  says("an unknown type has those for all", run("AB", NULL), "wv");
  says("a type is found by its whole name", run("", NULL), "wv");
  ok(mb__dispatch_wants(&d, mb_str("Z")), "with one for all events, every event is taken");
  clean();
  ok(freed == 5, "every opaque is freed in the end");
}

static void nobody(void) {
  freed = 0;
  ok(!mb__dispatch_wants(&d, mb_str("A")), "nothing is taken");
  says("nothing runs", run("A", NULL), "");
  ok(!result.run_count && !result.failed_count, "which is no failure");
  ok(mb__dispatch_remove(&d, 1) == MB_ENOENT, "there is nothing to remove");
  probe a = {.name = "a"};
  add("A", &a);
  ok(mb__dispatch_wants(&d, mb_str("A")) && !mb__dispatch_wants(&d, mb_str("B")),
     "a type with a subscription is taken, others are not");
  ok(mb__dispatch_remove(&d, a.id) == MB_OK && freed == 1, "removed, its opaque is freed");
  ok(mb__dispatch_remove(&d, a.id) == MB_ENOENT, "it is removed once");
  ok(!mb__dispatch_wants(&d, mb_str("A")), "and not taken any more");
  clean();
}

static void twice(void) { /* 12 */
  probe a = {.name = "a"};
  add("A", &a);
  uint32_t first = a.id;
  add("A", &a);
  ok(a.id != first, "a handler subscribed twice has two ids");
  says("and runs twice", run("A", NULL), "aa");
  mb__dispatch_remove(&d, first);
  says("removed once, it runs once", run("A", NULL), "a");
  clean();
}

static void failures(void) { /* 28 */
  probe a = {.name = "a", .outcome = MB_FAILED, .type = "Timeout", .why = "too slow"},
        b = {.name = "b"}, c = {.name = "c", .outcome = MB_FAILED, .type = "Refused", .why = "no"},
        e = {.name = "e", .outcome = MB_FAILED};
  add("A", &a);
  add("A", &b);
  says("the others run though one fails", run("A", NULL), "ab");
  ok(result.failed_count == 1 && result.failed.count == 1 && result.failed.id[0] == a.id,
     "the one that failed is named");
  says("one failure keeps its type", result.fail.type, "Timeout");
  says("and its message", result.fail.message, "too slow");
  add(NULL, &c);
  says("a later one fails as well", run("A", NULL), "abc");
  ok(result.failed_count == 2 && mb__ids_has(&result.failed, a.id) &&
         mb__ids_has(&result.failed, c.id) && !mb__ids_has(&result.failed, b.id),
     "both are named, no other");
  says("two failures have a type of their own", result.fail.type, "HandlerDispatchError");
  ok(strstr(result.fail.message, "too slow") && strstr(result.fail.message, "Refused: no"),
     "which tells of both");
  uint32_t both[] = {a.id, c.id};
  says("only those in the set run again", run("A", &(mb_ids){.id = both, .count = 2, .cap = 2}),
       "ac");
  add("E", &e);
  run("E", &(mb_ids){.id = &e.id, .count = 1, .cap = 1});
  ok(result.failed_count == 1 && result.fail.type[0] && result.fail.message[0],
     "a handler without a reason still has one");
  says("a run without failure", run("B", &(mb_ids){.id = &b.id, .count = 1, .cap = 1}), "");
  ok(!result.failed_count && !result.failed.count, "forgets the one before");
  clean();
}

static void refusals(void) {
  probe a = {.name = "a", .outcome = MB_REJECTED, .type = "Wrong", .why = "never"},
        b = {.name = "b", .outcome = MB_UNDECODABLE, .type = "Garbled", .why = "not JSON"},
        c = {.name = "c"};
  add("A", &a);
  add("A", &c);
  says("the others run though one refuses", run("A", NULL), "ac");
  ok(result.rejected_count == 1 && !result.failed_count && !result.failed.count &&
         !result.undecodable,
     "a refusal is no failure that runs again");
  add("B", &b);
  run("B", NULL);
  ok(result.undecodable && result.rejected_count == 1, "what cannot be read is refused");
  run("A", NULL);
  ok(!result.undecodable, "the next event starts without it");
  clean();
}

static void long_messages(void) {
  char text[6000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  probe a = {.name = "a", .outcome = MB_FAILED, .type = text, .why = text};
  add("A", &a);
  add("A", &a);
  add("A", &a);
  run("A", NULL);
  ok(strlen(result.fail.message) == MB_FAIL_MESSAGE_MAX - 1, "a long message is cut");
  ok(result.failed_count == 3, "and nothing else");
  clean();
  mb_fail_set(NULL, "x", "y");
  mb_fail fail;
  mb_fail_set(&fail, text, "y");
  ok(strlen(fail.type) == MB_FAIL_TYPE_MAX - 1, "a long type is cut");
  mb_fail_set(&fail, NULL, "%s %d", "y", 5);
  says("a failure without a type is an Error", fail.type, "Error");
  says("its message is formatted", fail.message, "y 5");
}

static void while_running(void) {
  probe a = {.name = "a"}, b = {.name = "b"}, c = {.name = "c"}, w = {.name = "w"};
  add("A", &a);
  add("A", &b);
  add(NULL, &w);
  a.remove = a.id;
  freed = 0;
  says("one that unsubscribes itself finishes its run", run("A", NULL), "abw");
  ok(freed == 1, "and is freed after it");
  says("it does not run again", run("A", NULL), "bw");
  b.remove = w.id;
  says("one unsubscribed before its turn does not run", run("A", NULL), "b");
  b.remove = 0;
  b.adds = &c;
  b.adds_to = "A";
  says("one subscribed while handlers run waits for the next event", run("A", NULL), "b");
  says("which it gets", run("A", NULL), "bc");
  b.adds = &w;
  b.adds_to = NULL;
  says("so does one for all events", run("A", NULL), "bc");
  says("which gets the next", run("A", NULL), "bcw");
  b.remove = b.id;
  b.adds = &a;
  b.adds_to = "A";
  a.remove = 0;
  says("one may take another's place", run("A", NULL), "bcw");
  says("for the next event", run("A", NULL), "caw");
  clean();
}

static void last_one_goes(void) {
  probe a = {.name = "a"};
  add("A", &a);
  a.remove = a.id;
  says("the last of a type may unsubscribe itself", run("A", NULL), "a");
  ok(!mb__dispatch_wants(&d, mb_str("A")), "the type is not taken then");
  says("and nothing runs", run("A", NULL), "");
  a.remove = 0;
  add("A", &a);
  says("until one subscribes again", run("A", NULL), "a");
  clean();
}

static void sets(void) {
  mb_ids ids = {0};
  for (uint32_t i = 1; i <= 100; i++) mb__ids_add(&ids, i * 3, -1);
  bool right = ids.count == 100;
  for (uint32_t i = 0; i <= 310; i++)
    right &= mb__ids_has(&ids, i) == (i > 0 && i % 3 == 0 && i <= 300);
  ok(right, "a set holds what was added and nothing else");
  mb__ids_free(&ids);
  ok(!ids.count && !mb__ids_has(&ids, 3), "freed, it is empty");
}

/* ---- tenants ---- */

#define T1 "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
#define T2 "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeef"
#define T3 "00000000-0000-4000-8000-000000000000"

static mb_err add_for(const char *type, probe *p, const char *const *tenants, size_t count) {
  mb_subscription_options options = {.max_retries = -1, .tenants = tenants, .tenant_count = count};
  return mb__dispatch_add(&d, type, note, p, on_free, &options, &p->id);
}

/* Who runs for an event of type A and that tenant; "?" when that is not who takes it. */
static const char *run_for(int kind, const char *id) {
  tenant.kind = kind;
  if (id) memcpy(tenant.id, id, MB_UUID_LEN);
  bool taken = mb__dispatch_takes(&d, mb_str("A"), &tenant);
  return taken == (run("A", NULL)[0] != 0) ? ran : "?";
}

static void tenants(void) {
  static const char *const one[] = {"{AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE}"},
                           *const two[] = {T2, T1}, *const none[] = {""},
                           *const shared[] = {"", T3}, *const wrong[] = {T1, "nobody"},
                           *const null[] = {NULL};
  probe a = {.name = "a"}, b = {.name = "b"}, c = {.name = "c"}, w = {.name = "w"},
        x = {.name = "x"};
  freed = 0;
  ok(!add_for("A", &a, one, 1) && !add_for("A", &b, two, 2) && !add_for(NULL, &c, shared, 2) &&
         !add_for("A", &w, none, 1),
     "tenants are given in any spelling, and as none");
  ok(d.filters == 4, "filters are counted");
  says("a tenant's events go to those that take them", run_for(MB_TENANT_ID, T1), "ab");
  says("whatever their order", run_for(MB_TENANT_ID, T2), "b");
  says("those for all events filter too", run_for(MB_TENANT_ID, T3), "c");
  says("an event without a tenant goes to those that want such", run_for(MB_TENANT_NONE, NULL),
       "wc");
  ok(result.run_count == 2, "only they count as run");
  says("a stranger's goes to nobody", run_for(MB_TENANT_ID, "11111111-2222-4333-8444-555555555555"),
       "");
  tenant.kind = MB_TENANT_UNREADABLE;
  ok(mb__dispatch_takes(&d, mb_str("A"), &tenant), "one that cannot be read is not passed over");
  says("but given to nobody", run("A", NULL), "");
  ok(result.undecodable && result.rejected_count == 1, "it is undecodable");
  add("A", &x);
  says("handlers without a filter see it", run("A", NULL), "x");
  says("and every other", run_for(MB_TENANT_ID, T1), "abx");
  ok(mb__dispatch_remove(&d, x.id) == MB_OK && freed == 1 && d.filters == 4, "one goes");
  ok(mb__dispatch_remove(&d, c.id) == MB_OK && d.filters == 3, "and a filter");
  says("which takes nothing more", run_for(MB_TENANT_ID, T3), "");
  freed = 0;
  ok(add_for("A", &x, wrong, 2) == MB_EINVAL && add_for("A", &x, null, 1) == MB_EINVAL &&
         add_for("A", &x, one, 0) == MB_EINVAL && freed == 3 && d.filters == 3,
     "no UUID, or no tenant at all, is refused, the opaque freed");
  tenant = (mb_tenant){0};
  clean();
  ok(!d.filters, "none is left");
}

/* ---- against a model: a list of subscriptions (13) ---- */

#define TYPES 4
#define MOST  60
#define STEPS 5000

static const char *const types[TYPES] = {NULL, "A", "B", "AnotherType"};

typedef struct entry {
  probe probe;
  char name[3];
  int type;
} entry;

static entry *entries[MOST];
static size_t entry_count;
static int born;

static void model_add(int type) {
  entry *e = calloc(1, sizeof *e);
  e->name[0] = (char)('a' + born % 26);
  e->name[1] = (char)('0' + born / 26 % 10);
  born++;
  e->probe.name = e->name;
  e->type = type;
  mb__dispatch_add(&d, types[type], note, &e->probe, on_free, NULL, &e->probe.id);
  entries[entry_count++] = e;
}

static void model_remove(size_t i) {
  mb__dispatch_remove(&d, entries[i]->probe.id);
  free(entries[i]);
  memmove(&entries[i], &entries[i + 1], (--entry_count - i) * sizeof *entries);
}

static void model_run(int type, char *expected, size_t size) {
  expected[0] = 0;
  for (int pass = 0; pass < 2; pass++)
    for (size_t i = 0; i < entry_count; i++)
      if (entries[i]->type == (pass ? 0 : type))
        strncat(expected, entries[i]->name, size - strlen(expected) - 1);
}

static const char *model_check(int type) {
  char expected[sizeof ran];
  model_run(type, expected, sizeof expected);
  if (strcmp(run(types[type], NULL), expected)) return "other handlers ran";
  if (mb__dispatch_wants(&d, mb_str(types[type])) != (expected[0] != 0)) return "taken wrongly";
  return freed == born - (int)entry_count ? NULL : "an opaque leaked";
}

static void against_model(void) {
  const char *given = getenv("MB_SEED"), *wrong = NULL;
  uint64_t first = given ? strtoull(given, NULL, 10) : 20260102, seed = first;
  int step;
  freed = 0;
  for (step = 0; step < STEPS && !wrong; step++) {
    if (roll(&seed) % 2 && entry_count < MOST)
      model_add((int)(roll(&seed) % TYPES));
    else if (entry_count)
      model_remove(roll(&seed) % entry_count);
    wrong = model_check(1 + (int)(roll(&seed) % (TYPES - 1)));
  }
  ok(!wrong, "over random operations it is as its model says: %s, step %d, MB_SEED=%" PRIu64,
     wrong ? wrong : "all of them", step, first);
  clean();
  while (entry_count) free(entries[--entry_count]);
  ok(freed == born, "and every opaque is freed once");
}

static void pending(void) {
  probe a = {.name = "a", .outcome = MB_PENDING}, b = {.name = "b"},
        w = {.name = "w", .outcome = MB_PENDING}, v = {.name = "v"};
  mb_iteration iteration;
  mb_fail fail;
  freed = 0;
  add("A", &a);
  add("A", &b);
  add(NULL, &w);
  add(NULL, &v);
  ran[0] = 0;
  ok(mb__dispatch_run(&d, NULL, mb_str("A"), &tenant, NULL, &iteration, &result) &&
         iteration.at == a.id,
     "one is pending");
  says("those after it wait", ran, "a");
  ok(!mb__dispatch_remove(&d, a.id) && !freed, "removed meanwhile it stays");
  mb__fail_clear(&fail);
  mb_fail_set(&fail, "Slow", "too slow");
  ok(mb__dispatch_go_on(&d, NULL, NULL, &iteration, MB_FAILED, &fail, &result) &&
         iteration.at == w.id,
     "they go on after it, to the next that is pending");
  says("in their order", ran, "abw");
  ok(freed == 1, "it is freed once it is over");
  mb__fail_clear(&fail);
  ok(!mb__dispatch_go_on(&d, NULL, NULL, &iteration, MB_HANDLED, &fail, &result),
     "then all have run");
  says("each once", ran, "abwv");
  ok(result.run_count == 4 && result.failed_count == 1 && mb__ids_has(&result.failed, a.id),
     "and who failed is known");
  ran[0] = 0;
  ok(mb__dispatch_run(&d, NULL, mb_str("A"), &tenant, NULL, &iteration, &result),
     "another is pending");
  ok(!mb__dispatch_remove(&d, w.id) && freed == 1, "and removed");
  mb__dispatch_release(&d, &iteration);
  mb__dispatch_release(&d, &iteration);
  ok(freed == 2, "nobody waits for it: it is freed");
  clean();
  ok(freed == 4, "as are the others");
}

int main(void) {
  order();
  nobody();
  twice();
  failures();
  refusals();
  long_messages();
  while_running();
  last_one_goes();
  sets();
  tenants();
  pending();
  against_model();
  return done();
}
