/* event/trace.c: the form of W3C trace context, and its way from one record's headers to another's.
 * Must not know handlers, Lua, or what a span is.
 * Called by bus/publish.c and lua/publish.c (publish), lua/handler.c (the context) and
 * deliver/attempt.c (in hand). */
#include "event/trace.h"

#include <string.h>

#include "base/error.h"

/* ---- form ---- */

/* Lower-case hexadecimal, not all of it zeros unless that may be. */
static bool hex(const char *at, size_t len, bool zero) {
  for (size_t i = 0; i < len; i++) {
    if (!((at[i] >= '0' && at[i] <= '9') || (at[i] >= 'a' && at[i] <= 'f'))) return false;
    if (at[i] != '0') zero = true;
  }
  return zero;
}

static bool printable(mb_bytes text) {
  for (size_t i = 0; i < text.len; i++)
    if ((text.data[i] < ' ' && text.data[i] != '\t') || text.data[i] > '~') return false;
  return true;
}

/* 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 */
static bool is_parent(mb_bytes text) {
  const char *at = text.data;
  if (text.len < 55 || text.len > MB_TRACEPARENT_MAX || !printable(text)) return false;
  if (at[2] != '-' || at[35] != '-' || at[52] != '-') return false;
  if (!hex(at, 2, true) || memcmp(at, "ff", 2) == 0) return false;
  if (text.len > 55 && (memcmp(at, "00", 2) == 0 || at[55] != '-')) return false;
  return hex(at + 3, 32, false) && hex(at + 36, 16, false) && hex(at + 53, 2, true);
}

static void clean_list(mb_bytes *list, size_t most) {
  if (list->len > most) {
    size_t len = most;
    while (len && list->data[len] != ',') len--;
    list->len = len;
  }
  if (!list->len || !printable(*list)) *list = (mb_bytes){NULL, 0};
}

void mb__trace_clean(mb_trace *trace) {
  if (!trace->traceparent.data || !is_parent(trace->traceparent))
    trace->traceparent = trace->tracestate = (mb_bytes){NULL, 0};
  clean_list(&trace->tracestate, MB_TRACESTATE_MAX);
  clean_list(&trace->baggage, MB_BAGGAGE_MAX);
}

/* ---- from record to record ---- */

static mb_err malformed(const char *name, const char *expected, char *errstr, size_t errstr_size) {
  return mb__error(MB_EEVENT, errstr, errstr_size, "%s: expected %s", name, expected);
}

static mb_err check(const mb_trace *given, char *errstr, size_t errstr_size) {
  const mb_bytes *parent = &given->traceparent, *state = &given->tracestate;
  const mb_bytes *baggage = &given->baggage;
  if (parent->len && !is_parent(*parent))
    return malformed("traceparent",
                     "version-trace-parent-flags in lower-case hexadecimal, such as "
                     "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                     errstr, errstr_size);
  if (state->len && !parent->len)
    return malformed("tracestate", "a traceparent beside it", errstr, errstr_size);
  if (state->len > MB_TRACESTATE_MAX || !printable(*state))
    return malformed("tracestate", "at most 512 bytes of printable ASCII", errstr, errstr_size);
  if (baggage->len > MB_BAGGAGE_MAX || !printable(*baggage))
    return malformed("baggage", "at most 8192 bytes of printable ASCII", errstr, errstr_size);
  return MB_OK;
}

mb_err mb__trace_choose(bool traces, const mb_trace *given, const mb_trace *carried,
                        mb_trace *trace, char *errstr, size_t errstr_size) {
  mb_err err = check(given, errstr, errstr_size);
  if (err) return err;
  *trace = (mb_trace){0};
  if (!traces) return MB_OK;
  *trace = *carried;
  if (given->traceparent.data) {
    trace->traceparent = given->traceparent;
    trace->tracestate = given->tracestate;
  }
  if (given->baggage.data) trace->baggage = given->baggage;
  return MB_OK;
}

static void add(mb_encoder *encoder, const char *name, mb_bytes value) {
  if (value.len) encoder->headers[encoder->header_count++] = (mb_header){mb_str(name), value};
}

void mb__trace_write(mb_encoder *encoder, const mb_trace *trace) {
  add(encoder, "traceparent", trace->traceparent);
  add(encoder, "tracestate", trace->tracestate);
  add(encoder, "baggage", trace->baggage);
}
