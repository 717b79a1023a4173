/* test_trace.c: the form of trace context: what is left of it, what is chosen, where it is written.
 * Must not need a broker.
 * Run by ctest. */
#include "bus/internal.h"
#include "check.h"

#define TRACE_ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN_ID  "00f067aa0ba902b7"
#define PARENT   "00-" TRACE_ID "-" SPAN_ID "-01"

static bool is(mb_bytes got, const char *expected) {
  if (!expected) return !got.data;
  return got.data && got.len == strlen(expected) && !memcmp(got.data, expected, got.len);
}

static void parents(void) {
  static const char *const good[] = {PARENT, "00-" TRACE_ID "-" SPAN_ID "-ff",
                                     "01-" TRACE_ID "-" SPAN_ID "-00",
                                     "cc-" TRACE_ID "-" SPAN_ID "-01-what comes later"};
  static const char *const bad[] = {"",
                                    "00",
                                    "00-" TRACE_ID "-" SPAN_ID "-0",
                                    "00-" TRACE_ID "-" SPAN_ID "-0g",
                                    "00-" TRACE_ID "-" SPAN_ID "-01-",
                                    "00_" TRACE_ID "-" SPAN_ID "-01",
                                    "ff-" TRACE_ID "-" SPAN_ID "-01",
                                    "0G-" TRACE_ID "-" SPAN_ID "-01",
                                    "01-" TRACE_ID "-" SPAN_ID "-01.more",
                                    "01-" TRACE_ID "-" SPAN_ID "-01-\x01",
                                    "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN_ID "-01",
                                    "00-00000000000000000000000000000000-" SPAN_ID "-01",
                                    "00-" TRACE_ID "-0000000000000000-01",
                                    "00-4bf92f3577b34da6a3ce929d0e0e473-x00f067aa0ba902b-01"};
  char later[200] = "01-" TRACE_ID "-" SPAN_ID "-01-";
  mb_trace trace;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    trace = (mb_trace){mb_str(good[i]), mb_str("a=1"), {NULL, 0}};
    mb__trace_clean(&trace);
    ok(is(trace.traceparent, good[i]) && is(trace.tracestate, "a=1"), "%s", good[i]);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    trace = (mb_trace){mb_str(bad[i]), mb_str("a=1"), mb_str("b=2")};
    mb__trace_clean(&trace);
    ok(is(trace.traceparent, NULL) && is(trace.tracestate, NULL) && is(trace.baggage, "b=2"),
       "no parent, and no state without one: %s", bad[i]);
  }
  memset(later + strlen(later), 'x', MB_TRACEPARENT_MAX - strlen(later));
  trace = (mb_trace){{later, MB_TRACEPARENT_MAX}, {NULL, 0}, {NULL, 0}};
  mb__trace_clean(&trace);
  ok(trace.traceparent.len == MB_TRACEPARENT_MAX, "a later version may be longer");
  trace.traceparent.len++;
  mb__trace_clean(&trace);
  ok(!trace.traceparent.data, "but not as long as it likes");
}

static void lists(void) {
  char text[MB_BAGGAGE_MAX + 2];
  memset(text, 'v', sizeof text);
  mb_trace trace = {mb_str(PARENT), {text, MB_TRACESTATE_MAX}, {text, MB_BAGGAGE_MAX}};
  mb__trace_clean(&trace);
  ok(trace.tracestate.len == MB_TRACESTATE_MAX && trace.baggage.len == MB_BAGGAGE_MAX,
     "lists of the greatest length stay");
  trace = (mb_trace){mb_str(PARENT), {text, MB_TRACESTATE_MAX + 1}, {text, MB_BAGGAGE_MAX + 1}};
  mb__trace_clean(&trace);
  ok(!trace.tracestate.data && !trace.baggage.data, "a member that is too long goes");
  text[MB_TRACESTATE_MAX] = ',';
  trace = (mb_trace){mb_str(PARENT), {text, MB_TRACESTATE_MAX + 1}, {text, sizeof text}};
  mb__trace_clean(&trace);
  ok(trace.tracestate.len == MB_TRACESTATE_MAX && trace.baggage.len == MB_TRACESTATE_MAX,
     "what stands before it stays");
  trace = (mb_trace){mb_str(PARENT), mb_str("a=\x7f"), mb_str("k=\xC3\xA9")};
  mb__trace_clean(&trace);
  ok(!trace.tracestate.data && !trace.baggage.data, "so does what is no printable ASCII");
}

static void choices(void) {
  const bool traces = true, silent = false;
  mb_trace carried = {mb_str(PARENT), mb_str("a=1"), mb_str("b=2")}, none = {0}, got;
  mb_trace other = {mb_str("00-" TRACE_ID "-1111111111111111-00"), {NULL, 0}, {NULL, 0}};
  mb_trace empty = {mb_str(""), {NULL, 0}, mb_str("")},
           state = {{NULL, 0}, mb_str("a=1"), {NULL, 0}};
  char err[256] = "";
  ok(!mb__trace_choose(traces, &none, &carried, &got, err, sizeof err) &&
         is(got.traceparent, PARENT) && is(got.tracestate, "a=1") && is(got.baggage, "b=2"),
     "what is carried is written where nothing is given");
  ok(!mb__trace_choose(traces, &other, &carried, &got, err, sizeof err) &&
         is(got.traceparent, other.traceparent.data) && is(got.tracestate, NULL) &&
         is(got.baggage, "b=2"),
     "a parent that is given does not keep the carried one's state");
  ok(!mb__trace_choose(traces, &empty, &carried, &got, err, sizeof err) && !got.traceparent.len &&
         !got.tracestate.len && !got.baggage.len,
     "empty ones are none");
  ok(mb__trace_choose(traces, &state, &carried, &got, err, sizeof err) == MB_EEVENT &&
         strstr(err, "tracestate: expected a traceparent"),
     "a state wants its parent");
  ok(!mb__trace_choose(silent, &carried, &carried, &got, err, sizeof err) &&
         is(got.traceparent, NULL) && is(got.tracestate, NULL) && is(got.baggage, NULL),
     "a bus that does not trace writes nothing");
  ok(mb__trace_choose(silent, &state, &none, &got, NULL, 0) == MB_EEVENT,
     "and checks all the same");
}

static void writing(void) {
  mb_event event = {.event_type = mb_str("E"),
                    .aggregate_type = mb_str("A"),
                    .aggregate_id = mb_str("00000000-0000-4000-8000-000000000001"),
                    .tenant_id = mb_str("00000000-0000-4000-8000-000000000002"),
                    .causation_id = mb_str("00000000-0000-4000-8000-000000000003"),
                    .actor_id = mb_str("me")};
  static const char *const last[] = {"actor_id", "traceparent", "tracestate", "baggage"};
  mb_trace trace = {mb_str(PARENT), mb_str("a=1"), mb_str("b=2")};
  mb_encoder encoder = {0};
  bool right = !mb__encode(&event, &encoder, NULL, 0);
  mb__trace_write(&encoder, &trace);
  right &= encoder.header_count == MB_HEADERS_MAX;
  for (size_t i = 0; right && i < 4; i++)
    right = strcmp(encoder.headers[MB_HEADERS_MAX - 4 + i].name.data, last[i]) == 0;
  ok(right, "the headers stand behind all others, in order");
  mb__encoder_free(&encoder);
}

int main(void) {
  parents();
  lists();
  choices();
  writing();
  return done();
}
