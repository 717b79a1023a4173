/* group/watch.c: what workers have in hand, in memory they share with their supervisor.
 * Must not know Kafka, Lua or processes; it keeps notes.
 * Called by the engine in a worker, and through moonbus.h by the supervisor. */
#include "group/watch.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "event/codec.h"

#define NAME_MAX_LEN 256
#define BUSES_MAX    8
#define PARTS_MAX    1024
#define NOTES_MAX    256

enum { FREE, OWNED, GIVEN };

/* Every event before next is settled, but for the parked ones. Written by its owner alone: a
 * partition that changes hands gets a new one, so that an owner who was frozen meanwhile spoils
 * nothing when it goes on. */
struct mb_watch_part {
  atomic_int state;
  int worker;     /* who owns it, or did */
  unsigned order; /* of several for one partition, the highest is the latest */
  char topic[NAME_MAX_LEN], group[NAME_MAX_LEN];
  int32_t id;
  _Atomic int64_t next, committed;
  atomic_uint dead_run;
  atomic_uint parked_count;
  int64_t parked[MB_WATCH_PARKED_MAX];
};

struct mb_watch_bus {
  char topic[NAME_MAX_LEN], group[NAME_MAX_LEN];
  mb_watch *watch;
  int worker;
  _Atomic int64_t timeout_us, memory_max, shutdown_us;
  _Atomic int64_t started_us; /* of the handlers that run; 0 = none do */
  atomic_int health;
  _Atomic uint32_t handler;
  int32_t partition;
  int64_t offset;
};

/* An event that some worker died with. */
typedef struct note {
  atomic_int deaths; /* 0 = free */
  char topic[NAME_MAX_LEN], group[NAME_MAX_LEN];
  int32_t partition;
  int64_t offset;
  char reason[32];
  uint32_t handler;
  int64_t first_us;
} note;

struct mb_watch {
  int workers;
  size_t size;
  atomic_bool log_json; /* a worker's bus logs JSON */
  atomic_int noted;     /* notes in use: nobody searches while there are none */
  atomic_uint order;
  note notes[NOTES_MAX];
  mb_watch_part parts[PARTS_MAX];
  mb_watch_bus buses[]; /* workers * BUSES_MAX */
};

mb_watch *mb_watch_new(int workers, char *errstr, size_t errstr_size) {
  size_t size = sizeof(mb_watch) + (size_t)workers * BUSES_MAX * sizeof(mb_watch_bus);
  /* Pages nobody touches cost nothing. */
  mb_watch *watch =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (watch == MAP_FAILED) {
    mb__error(MB_ENOMEM, errstr, errstr_size, "shared memory of %zu bytes: %s", size,
              strerror(errno));
    return NULL;
  }
  watch->workers = workers;
  watch->size = size;
  return watch;
}

void mb_watch_free(mb_watch *watch) {
  if (watch) munmap(watch, watch->size);
}

/* ---- the worker's side ---- */

/* What a worker owned is anybody's. */
static void release(mb_watch *watch, int worker) {
  for (int i = 0; i < PARTS_MAX; i++)
    if (atomic_load(&watch->parts[i].state) == OWNED && watch->parts[i].worker == worker)
      atomic_store(&watch->parts[i].state, GIVEN);
}

mb_watch_bus *mb__watch_bus(mb_watch *watch, int worker, int index, const char *topic,
                            const char *group) {
  if (worker < 0 || worker >= watch->workers || index < 0 || index >= BUSES_MAX) return NULL;
  mb_watch_bus *bus = &watch->buses[worker * BUSES_MAX + index];
  if (index == 0) release(watch, worker);
  bus->watch = watch;
  bus->worker = worker;
  atomic_store(&bus->started_us, 0);
  atomic_store(&bus->health, MB_GREEN);
  snprintf(bus->topic, sizeof bus->topic, "%s", topic);
  snprintf(bus->group, sizeof bus->group, "%s", group);
  return bus;
}

void mb__watch_limits(mb_watch_bus *bus, int64_t handler_timeout_us, int64_t memory_max_bytes,
                      int64_t shutdown_us) {
  atomic_store(&bus->shutdown_us, shutdown_us);
  atomic_store(&bus->timeout_us, handler_timeout_us);
  atomic_store(&bus->memory_max, memory_max_bytes);
}

void mb__watch_log_json(mb_watch_bus *bus) {
  atomic_store(&bus->watch->log_json, true);
}

void mb__watch_health(mb_watch_bus *bus, mb_health health) {
  atomic_store_explicit(&bus->health, health, memory_order_relaxed);
}

_Atomic uint32_t *mb__watch_handler(mb_watch_bus *bus) {
  return &bus->handler;
}

void mb__watch_begin(mb_watch_bus *bus, int32_t partition, int64_t offset, int64_t now_us) {
  bus->partition = partition;
  bus->offset = offset;
  atomic_store_explicit(&bus->started_us, now_us, memory_order_release);
}

void mb__watch_end(mb_watch_bus *bus) {
  atomic_store_explicit(&bus->started_us, 0, memory_order_release);
}

static bool is_of(const mb_watch_part *part, const mb_watch_bus *bus, int32_t partition) {
  return part->id == partition && strcmp(part->topic, bus->topic) == 0 &&
         strcmp(part->group, bus->group) == 0;
}

static mb_watch_part *latest(mb_watch_bus *bus, int32_t partition) {
  mb_watch_part *found = NULL;
  for (int i = 0; i < PARTS_MAX; i++) {
    mb_watch_part *part = &bus->watch->parts[i];
    if (atomic_load(&part->state) == FREE || !is_of(part, bus, partition)) continue;
    if (!found || part->order > found->order) found = part;
  }
  return found;
}

static mb_watch_part *claim(mb_watch_bus *bus) {
  for (int i = 0; i < PARTS_MAX; i++) {
    int state = FREE;
    mb_watch_part *part = &bus->watch->parts[i];
    if (atomic_compare_exchange_strong(&part->state, &state, OWNED)) return part;
  }
  return NULL;
}

/* next first: whatever was parked before it is in the list by then. What waited before the group's
 * offset was settled elsewhere: nobody would ever take it off the list. */
static void take_over(mb_watch_part *part, const mb_watch_part *from, int64_t committed) {
  atomic_store(&part->next, atomic_load(&from->next));
  unsigned count = atomic_load(&from->parked_count), kept = 0;
  for (unsigned i = 0; i < count; i++)
    if (from->parked[i] >= committed) part->parked[kept++] = from->parked[i];
  atomic_store(&part->parked_count, kept);
  atomic_store(&part->dead_run, atomic_load(&from->dead_run));
}

mb_watch_part *mb__watch_take(mb_watch_bus *bus, int32_t partition, int64_t committed) {
  mb_watch_part *from = latest(bus, partition), *part = claim(bus);
  if (!part) return NULL;
  part->worker = bus->worker;
  part->id = partition;
  memcpy(part->topic, bus->topic, sizeof part->topic);
  memcpy(part->group, bus->group, sizeof part->group);
  atomic_store(&part->next, -1);
  atomic_store(&part->committed, committed);
  atomic_store(&part->parked_count, 0);
  atomic_store(&part->dead_run, 0);
  if (from && committed >= atomic_load(&from->committed)) take_over(part, from, committed);
  part->order = atomic_fetch_add(&bus->watch->order, 1) + 1;
  for (int i = 0; i < PARTS_MAX; i++) {
    mb_watch_part *old = &bus->watch->parts[i];
    if (atomic_load(&old->state) == GIVEN && is_of(old, bus, partition))
      atomic_store(&old->state, FREE);
  }
  return part;
}

void mb__watch_give(mb_watch_part *part) {
  if (part) atomic_store(&part->state, GIVEN);
}

void mb__watch_committed(mb_watch_part *part, int64_t offset) {
  if (part) atomic_store(&part->committed, offset);
}

void mb__watch_reset(mb_watch_part *part) {
  if (!part) return;
  atomic_store(&part->next, -1);
  atomic_store(&part->committed, -1);
  atomic_store(&part->parked_count, 0);
}

static bool is_parked(const mb_watch_part *part, unsigned count, int64_t offset) {
  for (unsigned i = 0; i < count; i++)
    if (part->parked[i] == offset) return true;
  return false;
}

bool mb__watch_settled(const mb_watch_part *part, int64_t offset) {
  if (!part || offset >= atomic_load_explicit(&part->next, memory_order_relaxed)) return false;
  unsigned count = atomic_load(&part->parked_count);
  return !is_parked(part, count, offset);
}

static int compare_offsets(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

void mb__watch_marks(const mb_watch_part *part, int64_t low, mb_marks *marks) {
  int64_t next = part ? atomic_load(&part->next) : -1;
  if (low < 0 || next <= low) return;
  unsigned count = atomic_load(&part->parked_count);
  int64_t *parked = malloc((count + 1) * sizeof *parked);
  if (!parked) return;
  memcpy(parked, part->parked, count * sizeof *parked);
  parked[count++] = next;
  qsort(parked, count, sizeof *parked, compare_offsets);
  for (unsigned i = 0; i < count; i++) {
    if (parked[i] < low || parked[i] > next) continue;
    mb__marks_add(marks, low, parked[i]);
    low = parked[i] + 1;
  }
  free(parked);
}

void mb__watch_next(mb_watch_part *part, int64_t next) {
  /* What a dead worker had settled further on stays settled. */
  if (part && next > atomic_load_explicit(&part->next, memory_order_relaxed))
    atomic_store_explicit(&part->next, next, memory_order_release);
}

bool mb__watch_park(mb_watch_part *part, int64_t offset) {
  unsigned count = atomic_load(&part->parked_count);
  if (is_parked(part, count, offset)) return true;
  if (count >= MB_WATCH_PARKED_MAX) return false;
  part->parked[count] = offset;
  atomic_store_explicit(&part->parked_count, count + 1, memory_order_release);
  return true;
}

void mb__watch_unpark(mb_watch_part *part, int64_t offset) {
  if (!part) return;
  unsigned count = atomic_load(&part->parked_count);
  for (unsigned i = 0; i < count; i++) {
    if (part->parked[i] != offset) continue;
    part->parked[i] = part->parked[count - 1];
    atomic_store_explicit(&part->parked_count, count - 1, memory_order_release);
    return;
  }
}

void mb__watch_pass(mb_watch_part *part, int64_t offset) {
  if (!part) return;
  if (offset < atomic_load_explicit(&part->next, memory_order_relaxed))
    mb__watch_unpark(part, offset);
  else
    mb__watch_next(part, offset + 1);
}

void mb__watch_note_run(mb_watch_part *part, uint32_t run) {
  if (part) atomic_store_explicit(&part->dead_run, run, memory_order_relaxed);
}

uint32_t mb__watch_dead_run(const mb_watch_part *part) {
  return part ? atomic_load(&part->dead_run) : 0;
}

/* ---- notes held back ---- */

struct mb_held {
  mb_note kind;
  int64_t from, to; /* offsets; one but for MB_NOTE_PASS */
};

/* With a gap they would lie; without them the next owner only runs more events again. */
static void give_up(mb_notes *notes) {
  mb__watch_give(notes->part);
  notes->part = NULL;
}

static void write_note(mb_notes *notes, const mb_held *held) {
  mb_watch_part *part = notes->part;
  switch (held->kind) {
  case MB_NOTE_NEXT: mb__watch_next(part, held->to); break;
  case MB_NOTE_PARK:
    if (!mb__watch_park(part, held->to)) give_up(notes);
    break;
  case MB_NOTE_UNPARK: mb__watch_unpark(part, held->to); break;
  case MB_NOTE_PASS:
    for (int64_t offset = held->from; offset <= held->to; offset++) mb__watch_pass(part, offset);
  }
}

void mb__note(mb_notes *notes, mb_note kind, int64_t offset) {
  mb_held one = {.kind = kind, .from = offset, .to = offset};
  if (!notes->part) return;
  if (!notes->hold || !*notes->hold) {
    write_note(notes, &one);
    return;
  }
  mb_held *last = notes->count ? &notes->held[notes->count - 1] : NULL;
  if (last && kind == MB_NOTE_PASS && last->kind == kind && last->to + 1 == offset) {
    last->to = offset;
    return;
  }
  if (notes->count == notes->cap) {
    size_t cap = notes->cap ? notes->cap * 2 : 64;
    mb_held *held = realloc(notes->held, cap * sizeof *held);
    if (!held) {
      give_up(notes);
      return;
    }
    notes->held = held;
    notes->cap = cap;
  }
  notes->held[notes->count++] = one;
}

void mb__notes_release(mb_notes *notes) {
  for (size_t i = 0; notes->part && i < notes->count; i++) write_note(notes, &notes->held[i]);
  notes->count = 0;
}

void mb__notes_drop(mb_notes *notes) {
  free(notes->held);
  notes->held = NULL;
  notes->count = notes->cap = 0;
}

/* ---- deaths ---- */

static note *find_note(mb_watch_bus *bus, int32_t partition, int64_t offset) {
  mb_watch *watch = bus->watch;
  for (int i = 0; i < NOTES_MAX; i++) {
    note *n = &watch->notes[i];
    if (atomic_load(&n->deaths) && n->offset == offset && n->partition == partition &&
        strcmp(n->topic, bus->topic) == 0 && strcmp(n->group, bus->group) == 0)
      return n;
  }
  return NULL;
}

mb_deaths mb__watch_deaths(mb_watch_bus *bus, int32_t partition, int64_t offset) {
  mb_deaths deaths = {0};
  if (!bus || !atomic_load_explicit(&bus->watch->noted, memory_order_acquire)) return deaths;
  const note *n = find_note(bus, partition, offset);
  if (!n) return deaths;
  deaths =
      (mb_deaths){.count = atomic_load(&n->deaths), .handler = n->handler, .first_us = n->first_us};
  snprintf(deaths.reason, sizeof deaths.reason, "%s", n->reason);
  return deaths;
}

void mb__watch_forget(mb_watch_bus *bus, int32_t partition, int64_t offset) {
  if (!bus || !atomic_load_explicit(&bus->watch->noted, memory_order_acquire)) return;
  note *n = find_note(bus, partition, offset);
  if (!n) return;
  atomic_store(&n->deaths, 0);
  atomic_fetch_sub(&bus->watch->noted, 1);
}

/* ---- the supervisor's side ---- */

/* The innermost handler that runs: a handler that waits lets other buses of its worker run theirs.
 */
static mb_watch_bus *in_hand(mb_watch *watch, int worker) {
  mb_watch_bus *latest = NULL;
  for (int i = 0; i < BUSES_MAX; i++) {
    mb_watch_bus *bus = &watch->buses[worker * BUSES_MAX + i];
    int64_t started = atomic_load_explicit(&bus->started_us, memory_order_acquire);
    if (started && (!latest || started > atomic_load(&latest->started_us))) latest = bus;
  }
  return latest;
}

void mb_watch_look(mb_watch *watch, int worker, mb_watch_state *state) {
  *state = (mb_watch_state){.log_json = atomic_load(&watch->log_json)};
  mb_watch_bus *bus = in_hand(watch, worker);
  if (bus) {
    state->started_us = atomic_load(&bus->started_us);
    state->timeout_us = atomic_load(&bus->timeout_us);
  }
  for (int i = 0; i < BUSES_MAX; i++) {
    int64_t most = atomic_load(&watch->buses[worker * BUSES_MAX + i].memory_max);
    int64_t shutdown = atomic_load(&watch->buses[worker * BUSES_MAX + i].shutdown_us);
    mb_health health = (mb_health)atomic_load(&watch->buses[worker * BUSES_MAX + i].health);
    if (health > state->health) state->health = health;
    if (shutdown > state->shutdown_us) state->shutdown_us = shutdown;
    if (most && (!state->memory_max_bytes || most < state->memory_max_bytes))
      state->memory_max_bytes = most;
  }
}

bool mb_watch_died(mb_watch *watch, int worker, const char *reason, char *text, size_t text_size) {
  mb_watch_bus *bus = in_hand(watch, worker);
  release(watch, worker);
  if (!bus) return false;
  note *n = find_note(bus, bus->partition, bus->offset);
  for (int i = 0; !n && i < NOTES_MAX; i++) {
    if (atomic_load(&watch->notes[i].deaths)) continue;
    n = &watch->notes[i];
    memcpy(n->topic, bus->topic, sizeof n->topic);
    memcpy(n->group, bus->group, sizeof n->group);
    n->partition = bus->partition;
    n->offset = bus->offset;
    n->first_us = mb__now_us();
  }
  int deaths = 0;
  if (n) {
    snprintf(n->reason, sizeof n->reason, "%s", reason);
    n->handler = atomic_load(&bus->handler);
    deaths = atomic_fetch_add(&n->deaths, 1) + 1;
    if (deaths == 1) atomic_fetch_add(&watch->noted, 1);
  }
  if (text && text_size)
    snprintf(text, text_size, "%s[%d] offset %lld (death %d)", bus->topic, (int)bus->partition,
             (long long)bus->offset, deaths);
  for (int i = 0; i < BUSES_MAX; i++)
    atomic_store(&watch->buses[worker * BUSES_MAX + i].started_us, 0);
  return true;
}
