/* test_decode.c: what a value may be, for each declared type, and what is said of the rest.
 * Must not need a broker.
 * Run by ctest. */
#include "check.h"
#include "event/codec.h"
#include "invariants.h"

#define STR(literal) ((mb_bytes){literal, sizeof literal - 1})
#define ID           "11111111-2222-4333-8444-555555555555"
#define BASE                                                                                       \
  "\"event_id\":\"" ID "\",\"event_type\":\"T\",\"occurred_at\":\"2026-01-02T03:04:05Z\","         \
  "\"aggregate_id\":\"" ID "\",\"aggregate_type\":\"A\",\"correlation_id\":\"" ID "\""

static char err[512];

static bool holds(const mb_value *value, const char *text) {
  return (value->kind == MB_STRING || value->kind == MB_JSON) && value->as.s.len == strlen(text) &&
         !memcmp(value->as.s.data, text, value->as.s.len);
}

/* ---- decoding: types ---- */

/* A value against a schema with one field x of the spec. Shown as text, or the error. */
static const char *decoded(const char *spec, const char *json) {
  static mb_decoder dec;
  static char out[512];
  char text[2048];
  mb_schema *schema = mb__schema_new(STR("T"));
  if (!schema || mb__schema_add(schema, STR("x"), mb_str(spec), out, sizeof out))
    return "no schema";
  snprintf(text, sizeof text, "{" BASE "%s%s}", *json ? ",\"x\":" : "", json);
  mb_err rc = mb__decode(schema, mb_str(text), NULL, &dec, out, sizeof out);
  const mb_value *v = &dec.values[MB_F_BASE_COUNT];
  const char *wrong = straight_wrong(schema, mb_str(text), NULL, &dec, rc);
  if (!wrong && !rc) wrong = decode_wrong(schema, &dec);
  if (wrong)
    snprintf(out, sizeof out, "broken: %s", wrong);
  else if (!rc) {
    switch (v->kind) {
    case MB_NULL: strcpy(out, "null"); break;
    case MB_BOOL: strcpy(out, v->as.b ? "true" : "false"); break;
    case MB_INT: snprintf(out, sizeof out, "int %lld", (long long)v->as.i); break;
    case MB_UINT: snprintf(out, sizeof out, "uint %llu", (unsigned long long)v->as.u); break;
    case MB_DOUBLE: snprintf(out, sizeof out, "double %.17g", v->as.d); break;
    case MB_STRING: snprintf(out, sizeof out, "'%.*s'", (int)v->as.s.len, v->as.s.data); break;
    case MB_JSON: snprintf(out, sizeof out, "json %.*s", (int)v->as.s.len, v->as.s.data); break;
    }
  }
  mb__decoder_free(&dec);
  mb__schema_free(schema);
  return out;
}

#define X_AT               "240" /* byte offset of x's value in decoded() */
#define NOT(expected, got) "T.x: expected " expected ", got " got " (byte " X_AT ")"

static void types(void) {
  static const char *const rows[][3] = {
      {"string", "\"a\\u00e9\"", "'a\xc3\xa9'"},
      {"string", "\"\"", "''"},
      {"string", "5", NOT("string", "number 5")},
      {"string", "null", NOT("string", "null")},
      {"string", "{}", NOT("string", "an object")},
      {"string", "", "T.x: expected string, got nothing (byte 235)"},
      {"string?", "", "null"},
      {"string?", "null", "null"},
      {"string?", "[]", NOT("string or null", "an array")},
      {"number", "1.5", "double 1.5"},
      {"number", "3", "double 3"},
      {"number", "18446744073709551615", "double 1.8446744073709552e+19"},
      {"number", "1e30", "double 1e+30"},
      {"number", "\"abc\"", NOT("number", "string \"abc\"")},
      {"number", "true", NOT("number", "boolean true")},
      {"number", "1e999", "value is not JSON: a number out of range (byte " X_AT ")"},
      {"integer", "5", "int 5"},
      {"integer", "-9223372036854775808", "int -9223372036854775808"},
      {"integer", "18446744073709551615", "uint 18446744073709551615"},
      {"integer", "18446744073709551616", NOT("integer", "number 18446744073709551616")},
      {"integer", "-9223372036854775809", NOT("integer", "number -9223372036854775809")},
      {"integer", "5.0", "int 5"},
      {"integer", "1e3", "int 1000"},
      {"integer", "1e19", "uint 10000000000000000000"},
      {"integer", "1e20", NOT("integer", "number 1e20")},
      {"integer", "5.5", NOT("integer", "number 5.5")},
      {"integer", "9007199254740993.0", "int 9007199254740993"},
      {"integer", "-90071992547409e3", "int -90071992547409000"},
      {"integer", "0.0000e99", "int 0"},
      {"integer", "1200.00e-2", "int 12"},
      {"integer", "1844674407370955161.5e1", "uint 18446744073709551615"},
      {"integer", "1844674407370955161.6e1", NOT("integer", "number 1844674407370955161.6e1")},
      {"integer", "5.00000000000000000001", NOT("integer", "number 5.00000000000000000001")},
      {"integer", "1e-400", NOT("integer", "number 1e-400")},
      {"integer", "\"5\"", "int 5"},
      {"integer", "\"-12\"", "int -12"},
      {"integer", "\"18446744073709551615\"", "uint 18446744073709551615"},
      {"integer", "\"18446744073709551616\"", NOT("integer", "string \"18446744073709551616\"")},
      {"integer", "\"-9223372036854775809\"", NOT("integer", "string \"-9223372036854775809\"")},
      {"integer", "\"-9223372036854775808\"", "int -9223372036854775808"},
      {"integer", "\"\"", NOT("integer", "string \"\"")},
      {"integer", "\"-\"", NOT("integer", "string \"-\"")},
      {"integer", "\"5x\"", NOT("integer", "string \"5x\"")},
      {"integer", "null", NOT("integer", "null")},
      {"integer", "false", NOT("integer", "boolean false")},
      {"boolean", "true", "true"},
      {"boolean", "false", "false"},
      {"boolean", "1", NOT("boolean", "number 1")},
      {"boolean", "\"true\"", NOT("boolean", "string \"true\"")},
      {"uuid", "\"" ID "\"", "'" ID "'"},
      {"uuid", "\"AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE\"",
       "'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee'"},
      {"uuid", "\"{" ID "}\"", "'" ID "'"},
      {"uuid", "\"urn:uuid:" ID "\"", "'" ID "'"},
      {"uuid", "\"11111111222243338444555555555555\"", "'" ID "'"},
      {"uuid", "\"1111111\\u0031-2222-4333-8444-555555555555\"", "'" ID "'"},
      {"uuid", "\"1111111g-2222-4333-8444-555555555555\"",
       NOT("uuid", "string \"1111111g-2222-4333-8444-555555555555\"")},
      {"uuid", "\"\"", NOT("uuid", "string \"\"")},
      {"uuid", "7", NOT("uuid", "number 7")},
      {"uuid?", "null", "null"},
      {"timestamp", "\"2026-01-02T03:04:05Z\"", "'2026-01-02T03:04:05Z'"},
      {"timestamp", "\"2026-01-02T03:04:05.120000+05:30\"", "'2026-01-02T03:04:05.120000+05:30'"},
      {"timestamp", "\"2026-01-02 03:04:05.12\"", "'2026-01-02T03:04:05.120000Z'"},
      {"timestamp", "\"2026-01-02\"", "'2026-01-02T00:00:00Z'"},
      {"timestamp", "1767323045", "'2026-01-02T03:04:05Z'"},
      {"timestamp", "1767323045678", "'2026-01-02T03:04:05.678000Z'"},
      {"timestamp", "1767323045.5", "'2026-01-02T03:04:05.500000Z'"},
      {"timestamp", "-1", "'1969-12-31T23:59:59Z'"},
      {"timestamp", "1e300", NOT("timestamp", "number 1e300")},
      {"timestamp", "9223372036854775807", NOT("timestamp", "number 9223372036854775807")},
      {"timestamp", "-9223372036854775808", NOT("timestamp", "number -9223372036854775808")},
      {"timestamp", "18446744073709551615", NOT("timestamp", "number 18446744073709551615")},
      {"timestamp", "\"2026-02-30T00:00:00Z\"",
       NOT("timestamp", "string \"2026-02-30T00:00:00Z\"")},
      {"timestamp", "null", NOT("timestamp", "null")},
      {"decimal", "\"12.340\"", "'12.340'"},
      {"decimal", "\"1E+3\"", "'1E+3'"},
      {"decimal", "\"-0.0\"", "'-0.0'"},
      {"decimal", "12.340", "'12.340'"},
      {"decimal", "7", "'7'"},
      {"decimal", "123456789012345678901234567890.10", "'123456789012345678901234567890.10'"},
      {"decimal", "\"NaN\"", NOT("decimal", "string \"NaN\"")},
      {"decimal", "\"Infinity\"", NOT("decimal", "string \"Infinity\"")},
      {"decimal", "\"\"", NOT("decimal", "string \"\"")},
      {"decimal", "\".\"", NOT("decimal", "string \".\"")},
      {"decimal", "\"1e\"", NOT("decimal", "string \"1e\"")},
      {"decimal", "\"1 \"", NOT("decimal", "string \"1 \"")},
      {"decimal", "true", NOT("decimal", "boolean true")},
      {"object", "{\"a\" : [1]}", "json {\"a\" : [1]}"},
      {"object", "[]", NOT("object", "an array")},
      {"object", "\"{}\"", NOT("object", "string \"{}\"")},
      {"array", "[1,{}]", "json [1,{}]"},
      {"array", "{}", NOT("array", "an object")},
      {"any", "null", "null"},
      {"any", "\"s\"", "'s'"},
      {"any", "1", "int 1"},
      {"any", "[1]", "json [1]"},
      {"any", "", "T.x: expected any, got nothing (byte 235)"},
      {"any?", "", "null"},
      {"string[]", "[ \"a\" , \"b\\n\" ]", "json [ \"a\" , \"b\\n\" ]"},
      {"string[]", "[]", "json []"},
      {"string[]", "\"a\"", NOT("string[]", "string \"a\"")},
      {"string[]", "null", NOT("string[]", "null")},
      {"string[]?", "null", "null"},
      {"string[]?", "{}", NOT("string[] or null", "an object")},
      {"string[]", "[\"a\", 5, 6]", "T.x[1]: expected string, got number 5 (byte 246)"},
      {"string[]", "[null]", "T.x[0]: expected string, got null (byte 241)"},
      {"uuid[]", "[\"" ID "\",\"no\"]", "T.x[1]: expected uuid, got string \"no\" (byte 280)"},
      {"integer[]", "[1,\"2\",3.0]", "json [1,\"2\",3.0]"},
      {"any[]", "[null,1]", "json [null,1]"},
      {"number[]", "[1,[2]]", "T.x[1]: expected number, got an array (byte 243)"},
      {"string", "\"first\",\"x\":[]", "T.x: expected string, got an array (byte 252)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const char *got = decoded(rows[i][0], rows[i][1]);
    char name[200];
    snprintf(name, sizeof name, "%s reads %s", rows[i][0], *rows[i][1] ? rows[i][1] : "(nothing)");
    same(name, got, strlen(got), rows[i][2]);
  }
}

/* ---- decoding: the document ---- */

static mb_decoder doc;

static const char *document(mb_bytes text) {
  mb_err rc = mb__decode(mb__schema_base(), text, NULL, &doc, err, sizeof err);
  if (rc) return rc == MB_EDECODE ? err : "some other error";
  return decode_wrong(mb__schema_base(), &doc) ? "broken" : "fine";
}

static void documents(void) {
  static const struct {
    mb_bytes text;
    const char *shown;
  } rows[] = {
      {{NULL, 0}, "the record has no value (a tombstone)"},
      {STR(""), "value is not JSON: it is empty (byte 0)"},
      {STR(" \n"), "value is not JSON: it is empty (byte 0)"},
      {STR("\xef\xbb\xbf{}"), "value is not JSON: expected a value (byte 0)"},
      {STR("[1]"), "value is not a JSON object: got an array (byte 0)"},
      {STR(" 5"), "value is not a JSON object: got number 5 (byte 1)"},
      {STR("\"s\""), "value is not a JSON object: got string \"s\" (byte 0)"},
      {STR("01"), "value is not JSON: text after its end (byte 1)"},
      {STR("[1] [2]"), "value is not JSON: text after its end (byte 4)"},
      {STR("{" BASE "}"), "fine"},
      {STR(" \t{ " BASE " \n}\r\n "), "fine"},
      {STR("{" BASE "} x"), "value is not JSON: text after its end (byte 237)"},
      {STR("{" BASE ",}"), "value is not JSON: expected a key (byte 236)"},
      {STR("{" BASE ",\"z\":NaN}"), "value is not JSON: expected a value (byte 240)"},
      {STR("{" BASE ",\"z\":\"\\ud800\"}"), "value is not JSON: a lone surrogate (byte 241)"},
      {STR("{" BASE ",\"z\":\"\xff\"}"), "value is not JSON: invalid UTF-8 (byte 241)"},
      {STR("{" BASE ",\"\xff\":1}"), "value is not JSON: invalid UTF-8 (byte 237)"},
      {STR("{" BASE ",\"z\":{\"deep\":[1,{}]},\"y\":\"\\n\"}"), "fine"},
      {STR("{" BASE ",\"event_version\":0}"),
       "T.event_version: expected integer of at least 1, got number 0 (byte 252)"},
      {STR("{" BASE ",\"event_version\":18446744073709551615}"),
       "T.event_version: expected integer of at least 1, got number 18446744073709551615 (byte "
       "252)"},
      {STR("{" BASE ",\"event_version\":\"2\",\"aggregate_version\":3.0}"), "fine"},
      {STR("{" BASE ",\"event_version\":null,\"metadata\":null,\"event_id\":null}"), "fine"},
      {STR("{" BASE ",\"metadata\":[]}"), "T.metadata: expected object, got an array (byte 247)"},
      {STR("{" BASE ",\"event_type\":5}"),
       "event.event_type: expected string, got number 5 (byte 249)"},
      {STR("{" BASE ",\"actor_id\":5}"),
       "T.actor_id: expected string or null, got number 5 (byte 247)"},
      {STR("{" BASE ",\"actor_id\":5,\"actor_id\":\"a\"}"), "fine"},
      {STR("{" BASE ",\"actor_id\":5,\"actor_id\":null}"), "fine"},
      {STR("{" BASE ",\"actor_id\":5,\"z\":}"), "value is not JSON: expected a value (byte 253)"},
      {STR("{" BASE ",\"actor_id\":5} 5"), "value is not JSON: text after its end (byte 250)"},
      {STR("{" BASE ",\"event_type\":\"\"}"),
       "event.event_type: expected string, got nothing (byte 251)"},
      {STR("{}"), "event.event_type: expected string, got nothing (byte 1)"},
      {STR("{\"event_type\":\"T\"}"), "T.aggregate_id: expected uuid, got nothing (byte 17)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char name[300];
    snprintf(name, sizeof name, "document %zu: %s", i, rows[i].shown);
    const char *got = document(rows[i].text);
    same(name, got, strlen(got), rows[i].shown);
  }
  document(STR("{" BASE ",\"event\\u005ftype\":\"Last\",\"event_version\":2,\"event_version\":3}"));
  ok(holds(&doc.values[MB_F_EVENT_TYPE], "Last") && doc.values[MB_F_EVENT_VERSION].as.i == 3,
     "of duplicate keys the last wins, also when escaped");
  document(STR("{" BASE ",\"actor_id\":\"a\\nb\",\"aggregate_type\":\"c\\nd\"}"));
  ok(holds(&doc.values[MB_F_ACTOR_ID], "a\nb") && holds(&doc.values[MB_F_AGGREGATE_TYPE], "c\nd"),
     "unescaped strings do not disturb each other");
  document(STR("{" BASE ",\"occurred_at\":0}"));
  ok(holds(&doc.values[MB_F_OCCURRED_AT], "1970-01-01T00:00:00Z"), "a number is a timestamp");
}

static void many_fields(void) {
  mb_schema *schema = mb__schema_new(STR("Wide"));
  mb_buf text = {0};
  char name[16];
  mb__buf_lit(&text, "{" BASE);
  for (int i = MB_FIELDS_MAX - 1; i >= MB_F_BASE_COUNT; i--) {
    char member[64];
    int len = snprintf(member, sizeof member, ",\"f%d\":\"\\u0041%d\"", i, i);
    mb__buf_add(&text, member, (size_t)len);
  }
  mb__buf_char(&text, '}');
  for (int i = MB_F_BASE_COUNT; i < MB_FIELDS_MAX; i++) {
    snprintf(name, sizeof name, "f%d", i);
    if (mb__schema_add(schema, mb_str(name), STR("string"), err, sizeof err)) ok(false, "%s", err);
  }
  ok(mb__schema_add(schema, STR("more"), STR("string"), err, sizeof err) == MB_EINVAL,
     "a schema has a ceiling: %s", err);
  bool right = !mb__decode(schema, mb__buf_bytes(&text), NULL, &doc, err, sizeof err) &&
               !decode_wrong(schema, &doc);
  for (int i = MB_F_BASE_COUNT; right && i < MB_FIELDS_MAX; i++) {
    snprintf(name, sizeof name, "A%d", i);
    right = holds(&doc.values[i], name);
  }
  ok(right, "members in reverse order find their fields");
  right = !mb__decode(mb__schema_base(), STR("{" BASE "}"), NULL, &doc, err, sizeof err) &&
          !doc.present[MB_F_ACTOR_ID];
  ok(right, "a smaller schema can use the same decoder");
  mb__buf_free(&text);
  mb__schema_free(schema);
}

/* ---- decoding: what is lacking ---- */

typedef struct record {
  const char *headers[8][2];
} record;

static mb_err header_of(const void *opaque, const char *name, mb_bytes *value) {
  const record *r = opaque;
  for (int i = 0; i < 8 && r->headers[i][0]; i++) {
    if (strcmp(r->headers[i][0], name)) continue;
    *value = mb_str(r->headers[i][1]);
    return MB_OK;
  }
  return MB_ENOENT;
}

static void lacking(void) {
  const record full = {{{"event_id", "{AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE}"},
                        {"event_type", "Header"},
                        {"occurred_at", "2026-01-02T03:04:05.678901+00:00"},
                        {"correlation_id", "99999999-8888-4777-8666-555555555555"},
                        {"aggregate_id", ID},
                        {"aggregate_type", "Agg"},
                        {"event_id", "ignored"}}};
  const record least_headers = {{{"event_id", "no"},
                                 {"occurred_at", "no"},
                                 {"event_type", "H"},
                                 {"aggregate_id", ID},
                                 {"aggregate_type", "Agg"},
                                 {"correlation_id", ""}}};
  const record bad = {{{"event_type", "H"}, {"aggregate_id", "no"}, {"aggregate_type", "\xff"}}};
  mb_origin origin = {"orders", 3, 42, 1767323045678, header_of, &full};
  const mb_value *v = doc.values;
  char id[MB_UUID_LEN];

  ok(!mb__decode(mb__schema_base(), STR("{}"), &origin, &doc, err, sizeof err) &&
         !decode_wrong(mb__schema_base(), &doc),
     "an empty object is filled from headers");
  ok(holds(&v[MB_F_EVENT_ID], "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee") &&
         holds(&v[MB_F_EVENT_TYPE], "Header") &&
         holds(&v[MB_F_OCCURRED_AT], "2026-01-02T03:04:05.678901Z") &&
         holds(&v[MB_F_CORRELATION_ID], "99999999-8888-4777-8666-555555555555") &&
         holds(&v[MB_F_AGGREGATE_ID], ID) && holds(&v[MB_F_AGGREGATE_TYPE], "Agg") &&
         v[MB_F_EVENT_VERSION].as.i == 1 && v[MB_F_AGGREGATE_VERSION].as.i == 1 &&
         holds(&v[MB_F_METADATA], "{}"),
     "each in the form of the wire");
  ok(!mb__decode(mb__schema_base(), STR("{\"event_type\":\"\",\"aggregate_id\":null}"), &origin,
                 &doc, err, sizeof err) &&
         holds(&v[MB_F_EVENT_TYPE], "Header") && holds(&v[MB_F_AGGREGATE_ID], ID),
     "an empty type and a null id count as lacking");

  origin.record = &least_headers;
  bool right = !mb__decode(mb__schema_base(), STR("{}"), &origin, &doc, err, sizeof err);
  mb__uuid_from_name(id, NULL, STR("moonbus:orders/3/42"));
  ok(right && v[MB_F_EVENT_ID].as.s.len == MB_UUID_LEN &&
         !memcmp(v[MB_F_EVENT_ID].as.s.data, id, MB_UUID_LEN),
     "an id is derived from topic, partition and offset");
  ok(right && !memcmp(v[MB_F_CORRELATION_ID].as.s.data, id, MB_UUID_LEN),
     "the correlation id is the event's");
  ok(right && holds(&v[MB_F_OCCURRED_AT], "2026-01-02T03:04:05.678000Z"),
     "the time is the record's");
  origin.offset = 43;
  right = !mb__decode(mb__schema_base(), STR("{}"), &origin, &doc, err, sizeof err);
  ok(right && memcmp(v[MB_F_EVENT_ID].as.s.data, id, MB_UUID_LEN), "another offset, another id");
  origin.timestamp_ms = -1;
  right = !mb__decode(mb__schema_base(), STR("{}"), &origin, &doc, err, sizeof err);
  ok(right && holds(&v[MB_F_OCCURRED_AT], "1970-01-01T00:00:00Z"), "no time at all is 1970");

  origin.record = &bad;
  ok(mb__decode(mb__schema_base(), STR("{}"), &origin, &doc, err, sizeof err) == MB_EDECODE,
     "a header that is no UUID does not count");
  same("and the error names the event by its header", err, strlen(err),
       "H.aggregate_id: expected uuid, got nothing (byte 1)");
}

/* ---- versions ---- */

/* A value of that event_version against a schema of version 3 with one field, a number. */
static const char *versioned(bool lifts, const char *version, const char *x) {
  static char out[512];
  char text[512];
  mb_schema *schema = mb__schema_new(STR("T"));
  if (!schema || mb__schema_add(schema, STR("x"), STR("number"), out, sizeof out))
    return "no schema";
  schema->version = 3;
  schema->lifts = lifts;
  snprintf(text, sizeof text, "{" BASE "%s%s,\"x\":%s}", *version ? ",\"event_version\":" : "",
           version, x);
  doc.outdated = 77;
  if (!mb__decode(schema, mb_str(text), NULL, &doc, out, sizeof out))
    snprintf(out, sizeof out, "read as %lld, to lift %lld",
             (long long)doc.values[MB_F_EVENT_VERSION].as.i, (long long)doc.outdated);
  else if (doc.outdated)
    snprintf(out, sizeof out, "to lift %lld", (long long)doc.outdated);
  mb__schema_free(schema);
  return out;
}

static void versions(void) {
  static const struct {
    bool lifts;
    const char *version, *x, *says;
  } rows[] = {
      {true, "3", "1", "read as 3, to lift 0"},
      {true, "4", "1", "read as 4, to lift 0"},
      {true, "2", "1", "to lift 2"},
      {true, "2", "\"of another type\"", "to lift 2"},
      {true, "", "1", "to lift 1"},
      {true, "null", "{}", "to lift 1"},
      {true, "3,\"event_version\":1", "1", "to lift 1"},
      {true, "1,\"event_version\":3", "1", "read as 3, to lift 0"},
      {true, "0", "1", "T.event_version: expected integer of at least 1, got number 0 (byte 252)"},
      {true, "\"x\"", "1",
       "T.event_version: expected integer of at least 1, got string \"x\" (byte 252)"},
      {true, "1", "]", "value is not JSON: expected a value (byte 258)"},
      {true, "5", "true",
       "T.x: expected number, got boolean true (byte 258); the event is of version 5, declared is "
       "3"},
      {false, "1", "1", "read as 1, to lift 0"},
      {false, "", "1", "read as 1, to lift 0"},
      {false, "1", "true", "T.x: expected number, got boolean true (byte 258)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const char *got = versioned(rows[i].lifts, rows[i].version, rows[i].x);
    same(rows[i].version, got, strlen(got), rows[i].says);
  }
}

int main(void) {
  types();
  documents();
  many_fields();
  lacking();
  versions();
  mb__decoder_free(&doc);
  return done();
}
