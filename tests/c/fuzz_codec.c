/* fuzz_codec.c: libFuzzer target: any bytes may be a record's value, a header, or a line to
 * publish. Must not need a broker. Run by hand and by CI, built with -DMB_FUZZ=ON. */
#include <stdio.h>
#include <stdlib.h>

#include "event/codec.h"
#include "event/trace.h"
#include "invariants.h"

#define MUST(fact)                                                                                 \
  do {                                                                                             \
    if (!(fact)) abort();                                                                          \
  } while (0)

/* Every header is the input's first few bytes. */
static mb_err header_of(const void *record, const char *name, mb_bytes *value) {
  const mb_bytes *text = record;
  if (text->len < 2 || name[0] == text->data[0]) return MB_ENOENT;
  *value = (mb_bytes){text->data, text->len < 40 ? text->len : 40};
  return MB_OK;
}

static void decode(const mb_schema *schema, mb_bytes text, const mb_origin *origin) {
  static mb_decoder decoder;
  char err[256] = "";
  mb_err rc = mb__decode(schema, text, origin, &decoder, err, sizeof err);
  MUST(rc == MB_OK || rc == MB_EDECODE);
  MUST(!straight_wrong(schema, text, origin, &decoder, rc));
  if (rc) {
    size_t len = strlen(err);
    /* a cut at 256 bytes may fall inside a character; otherwise errors are UTF-8 */
    MUST(len > 0 && (len == sizeof err - 1 || mb__utf8_valid(mb_str(err))));
  } else {
    MUST(!decode_wrong(schema, &decoder));
  }
}

/* A line that can be published comes back as the event it was. */
static void publish(mb_bytes text) {
  static mb_event_store store;
  static mb_encoder encoder;
  static mb_decoder decoder;
  mb_event event;
  if (mb__event_from_json(text, mb_str("Default"), &store, &event, NULL, 0)) return;
  if (mb__encode(&event, &encoder, NULL, 0)) return;
  mb_bytes value = mb__buf_bytes(&encoder.value);
  MUST(!mb__decode(mb__schema_base(), value, NULL, &decoder, NULL, 0));
  MUST(!decode_wrong(mb__schema_base(), &decoder));
  MUST(is_json(value, '{') && encoder.header_count >= 7 && encoder.header_count <= MB_HEADERS_MAX);
  mb_bytes type = decoder.values[MB_F_EVENT_TYPE].as.s;
  MUST(type.len == event.event_type.len && !memcmp(type.data, event.event_type.data, type.len));
}

/* Cleaning leaves what cleaning leaves as it is. */
static void trace(mb_bytes text) {
  mb_trace once = {text, text, text};
  mb__trace_clean(&once);
  mb_trace twice = once;
  mb__trace_clean(&twice);
  MUST(!memcmp(&once, &twice, sizeof once));
  MUST(once.traceparent.len <= MB_TRACEPARENT_MAX && once.tracestate.len <= MB_TRACESTATE_MAX &&
       once.baggage.len <= MB_BAGGAGE_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static mb_schema *every;
  mb_bytes text = {(const char *)data, size};
  mb_origin origin = {"topic", 1, 2, 1767323045678, header_of, &text};
  char out[MB_TIME_MAX], id[MB_UUID_LEN];
  mb_bytes wire;
  int64_t us, again;
  if (!every) MUST((every = every_type()) != NULL);
  decode(every, text, NULL);
  decode(every, text, &origin);
  decode(mb__schema_base(), text, &origin);
  publish(text);
  trace(text);
  if (mb__time_normalise(text, out, &wire))
    MUST(mb__time_parse(text, &us) && mb__time_parse(wire, &again) && us == again);
  bool canonical;
  if (mb__uuid_parse(text, id, &canonical))
    MUST(mb__uuid_parse((mb_bytes){id, sizeof id}, id, &canonical) && canonical);
  (void)mb__partition_of(text, 7);
  return 0;
}
