/* event/trace.h: W3C trace context in the headers of records: read from the event in hand, written
 * to what is published meanwhile. Makes no spans; knows nothing of handlers or Lua. */
#ifndef MB_TRACE_H
#define MB_TRACE_H

#include "event/codec.h"
#include "moonbus.h"

#define MB_TRACEPARENT_MAX 128
#define MB_TRACESTATE_MAX  512
#define MB_BAGGAGE_MAX     8192

/* The three headers; views are borrowed from whatever they came from. */
typedef struct mb_trace {
  mb_bytes traceparent, tracestate, baggage;
} mb_trace;

/* Leave what is well formed: a traceparent of version 00, or of a later one that begins like it; a
 * tracestate only beside it; lists of printable ASCII, cut between members where they are too long.
 */
void mb__trace_clean(mb_trace *trace);

/* What an event is published with: what is given, else what is carried; "" given is none. Of
 * traceparent and tracestate either both are carried or none. All absent unless the bus traces
 * (enable_tracing). MB_EEVENT: what is given is malformed. */
mb_err mb__trace_choose(bool traces, const mb_trace *given, const mb_trace *carried,
                        mb_trace *trace, char *errstr, size_t errstr_size);

/* Add the headers to an event that was encoded; borrowed until the next encode. */
void mb__trace_write(mb_encoder *encoder, const mb_trace *trace);

#endif
