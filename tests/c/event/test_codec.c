/* test_codec.c: event/codec.h does what it says, byte for byte where another program reads the
 * bytes. Must not need a broker. Run by ctest; reads ../../support/golden.json, or the file named
 * by the first argument. */
#include <stdlib.h>

#include "check.h"
#include "event/codec.h"
#include "invariants.h"

#define STR(literal) ((mb_bytes){literal, sizeof literal - 1})
#define ID           "11111111-2222-4333-8444-555555555555"

static uint64_t seed = 20260102;
static char err[512];

static bool holds(const mb_value *value, const char *text) {
  return (value->kind == MB_STRING || value->kind == MB_JSON) && value->as.s.len == strlen(text) &&
         !memcmp(value->as.s.data, text, value->as.s.len);
}

/* ---- the golden event ---- */

typedef struct golden {
  mb_bytes text;    /* the file */
  char value[2048]; /* decoded from hex */
  size_t value_len;
  char headers[16][2][80];
  size_t header_count;
  char key[64];
} golden;

static void keep_text(char *to, size_t size, mb_bytes from) {
  snprintf(to, size, "%.*s", (int)from.len, from.data);
}

static void golden_headers(golden *g, mb_json *json) {
  bool rows = true;
  mb_bytes s;
  if (!mb__json_enter_array(json)) return;
  while (g->header_count < 16 && mb__json_next_item(json, &rows) > 0) {
    bool cells = true;
    if (!mb__json_enter_array(json)) return;
    for (int i = 0; mb__json_next_item(json, &cells) > 0 && mb__json_string(json, &s);)
      if (i < 2) keep_text(g->headers[g->header_count][i++], sizeof g->headers[0][0], s);
    g->header_count++;
  }
}

static bool golden_load(golden *g, const char *path) {
  static char text[16384];
  FILE *file = fopen(path, "rb");
  mb_json json;
  mb_bytes key, s;
  bool first = true;
  if (!file) return false;
  g->text = (mb_bytes){text, fread(text, 1, sizeof text, file)};
  fclose(file);
  mb__json_init(&json, g->text);
  if (!mb__json_enter_object(&json)) return false;
  while (mb__json_next_key(&json, &first, &key) > 0) {
    if (mb__json_peek(&json) == '[') {
      golden_headers(g, &json);
    } else if (mb__json_string(&json, &s)) {
      if (key.len == 3) keep_text(g->key, sizeof g->key, s);
      for (size_t i = 0; key.len == 9 && i + 1 < s.len && i / 2 < sizeof g->value; i += 2) {
        char pair[3] = {s.data[i], s.data[i + 1], 0};
        g->value[g->value_len++] = (char)strtoul(pair, NULL, 16);
      }
    }
  }
  mb__json_done(&json);
  return g->value_len == 663 && g->header_count == 10;
}

static mb_event golden_event(void) {
  return (mb_event){
      .event_type = STR("OrderPlaced"),
      .aggregate_id = STR("AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE"),
      .aggregate_type = STR("Order"),
      .data =
          STR(" { \"order_number\" : \"ORD-\xc3\xa9\\\"\\\\/\\n\\t\\u0001\x7f\xf0\x9f\x98\x80\",\n"
              "\"customer_id\":\"00000000-0000-0000-0000-000000000001\", \"total\":\"12.340\",\t"
              "\"weight\":100.0,\"quantity\":3,\"express\": true ,\"note\":null } \n"),
      .metadata = STR("{\"source\":\"api\", \"n\":1,\"f\":1.0,\"nested\":{\"a\":[1, null,true]}}"),
      .aggregate_version = 7,
      .event_id = STR("11111111-2222-4333-8444-555555555555"),
      .occurred_at = STR("2026-01-02T03:04:05.678901Z"),
      .correlation_id = STR("99999999-8888-4777-8666-555555555555"),
      .causation_id = STR("12121212-3434-4565-8787-909090909090"),
      .tenant_id = STR("01234567-89AB-4CDE-8F01-23456789ABCD"),
      .actor_id = STR("user:42"),
  };
}

static void golden_encodes(const golden *g) {
  mb_encoder enc = {0};
  mb_event event = golden_event();
  mb_err rc = mb__encode(&event, &enc, err, sizeof err);
  ok(rc == MB_OK, "the golden event is encoded");
  ok(enc.value.len == g->value_len && !memcmp(enc.value.data, g->value, g->value_len),
     "its value is the golden one, byte for byte");
  same("its key is the golden one", enc.key, sizeof enc.key, g->key);
  ok(enc.header_count == g->header_count, "it has the golden headers' number");
  for (size_t i = 0; i < enc.header_count && i < g->header_count; i++) {
    char name[96];
    mb_bytes header = enc.headers[i].name;
    snprintf(name, sizeof name, "header %zu is %s", i, g->headers[i][0]);
    same(name, header.data, header.len, g->headers[i][0]);
    snprintf(name, sizeof name, "its value is %s", g->headers[i][1]);
    same(name, enc.headers[i].value.data, enc.headers[i].value.len, g->headers[i][1]);
  }
  mb__encoder_free(&enc);
}

static mb_schema *order_placed(void) {
  static const char *const fields[][2] = {{"order_number", "string"}, {"customer_id", "uuid"},
                                          {"total", "decimal"},       {"weight", "number"},
                                          {"quantity", "integer"},    {"express", "boolean"},
                                          {"note", "string?"}};
  mb_schema *schema = mb__schema_new(STR("OrderPlaced"));
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (mb__schema_add(schema, mb_str(fields[i][0]), mb_str(fields[i][1]), err, sizeof err))
      ok(false, "the schema takes %s: %s", fields[i][0], err);
  return schema;
}

static void golden_decodes(const golden *g) {
  static mb_decoder dec;
  mb_schema *schema = order_placed();
  mb_bytes value = {g->value, g->value_len};
  ok(!mb__decode(schema, value, NULL, &dec, err, sizeof err), "the golden value is decoded");
  const mb_value *v = dec.values;
  ok(holds(&v[MB_F_EVENT_ID], "11111111-2222-4333-8444-555555555555") &&
         v[MB_F_EVENT_ID].as.s.data > g->value &&
         v[MB_F_EVENT_ID].as.s.data < g->value + g->value_len,
     "a canonical UUID is not copied");
  ok(holds(&v[MB_F_OCCURRED_AT], "2026-01-02T03:04:05.678901Z"), "occurred_at");
  ok(v[MB_F_AGGREGATE_VERSION].kind == MB_INT && v[MB_F_AGGREGATE_VERSION].as.i == 7, "version");
  ok(holds(&v[MB_F_METADATA],
           "{\"source\":\"api\",\"n\":1,\"f\":1.0,\"nested\":{\"a\":[1,null,true]}}"),
     "metadata is its JSON text");
  ok(holds(&v[12], "ORD-\xc3\xa9\"\\/\n\t\x01\x7f\xf0\x9f\x98\x80"), "order_number is unescaped");
  ok(holds(&v[14], "12.340"), "total keeps its digits");
  ok(v[15].kind == MB_DOUBLE && v[15].as.d == 100.0, "weight");
  ok(v[16].kind == MB_INT && v[16].as.i == 3, "quantity");
  ok(v[17].kind == MB_BOOL && v[17].as.b, "express");
  ok(v[18].kind == MB_NULL, "note is null");
  ok(!decode_wrong(schema, &dec), "all invariants hold");

  bool right = true;
  for (size_t len = 0; len < g->value_len && right; len++) {
    char *copy = malloc(len + 1);
    memcpy(copy, g->value, len);
    mb_bytes cut = {copy, len};
    right = mb__decode(schema, cut, NULL, &dec, err, sizeof err) == MB_EDECODE;
    right &= mb__decode(mb__schema_base(), cut, NULL, &dec, NULL, 0) == MB_EDECODE;
    free(copy);
  }
  ok(right, "no part of it that is cut short is decoded");
  mb__decoder_free(&dec);
  mb__schema_free(schema);
}

static void mutations(const golden *g) {
  static mb_decoder dec;
  mb_schema *schema = order_placed(), *every = every_type();
  static const char pool[] = "\"\\{}[],: 0123456789eE+-.truefalsnN\xff\xc3\x80\x00\x1f\n";
  uint64_t state = seed;
  const char *wrong = NULL;
  int decoded = 0;
  for (int i = 0; i < 100000 && !wrong; i++) {
    size_t len = g->value_len;
    char *copy = malloc(len);
    memcpy(copy, g->value, len);
    for (uint64_t n = 1 + roll(&state) % 3; n > 0; n--) {
      size_t at = roll(&state) % len;
      switch (roll(&state) % 3) {
      case 0: copy[at] = (char)roll(&state); break;
      case 1: copy[at] = pool[roll(&state) % (sizeof pool - 1)]; break;
      default: memmove(copy + at, copy + at + 1, --len - at);
      }
    }
    const mb_schema *against = i & 1 ? schema : every;
    if (!mb__decode(against, (mb_bytes){copy, len}, NULL, &dec, err, sizeof err)) {
      decoded++;
      wrong = decode_wrong(against, &dec);
    }
    free(copy);
  }
  ok(!wrong && decoded > 100, "100000 mutations break nothing, %d decode (%s)", decoded,
     wrong ? wrong : "all invariants hold");
  mb__decoder_free(&dec);
  mb__schema_free(schema);
  mb__schema_free(every);
}

/* ---- encoding ---- */

static mb_event least(void) {
  return (mb_event){.event_type = STR("T"), .aggregate_id = STR(ID), .aggregate_type = STR("A")};
}

static void encodes_defaults(void) {
  mb_encoder enc = {0};
  mb_event event = least();
  static mb_decoder dec;
  char first[MB_UUID_LEN];
  ok(!mb__encode(&event, &enc, err, sizeof err) && enc.header_count == 7,
     "an event with only what is required has seven headers");
  ok(!mb__decode(mb__schema_base(), mb__buf_bytes(&enc.value), NULL, &dec, err, sizeof err) &&
         !decode_wrong(mb__schema_base(), &dec),
     "and is decoded");
  ok(dec.values[MB_F_EVENT_VERSION].as.i == 1 && dec.values[MB_F_AGGREGATE_VERSION].as.i == 1 &&
         holds(&dec.values[MB_F_METADATA], "{}") && dec.values[MB_F_ACTOR_ID].kind == MB_NULL,
     "with the defaults of the wire");
  memcpy(first, enc.event_id, sizeof first);
  ok(!mb__encode(&event, &enc, err, sizeof err) && memcmp(first, enc.event_id, sizeof first) &&
         memcmp(enc.event_id, enc.correlation_id, sizeof first),
     "ids are fresh each time");
  event.actor_id = STR("");
  ok(!mb__encode(&event, &enc, err, sizeof err) && enc.header_count == 7 &&
         strstr((mb__buf_char(&enc.value, 0), enc.value.data), "\"actor_id\":\"\""),
     "an empty actor is in the value, not in the headers");
  event.data = STR(" { } ");
  event.metadata = STR(" {\n} ");
  ok(!mb__encode(&event, &enc, err, sizeof err) && enc.value.len > 13 &&
         !memcmp(enc.value.data + enc.value.len - 14, "\"metadata\":{}}", 14),
     "empty data adds nothing");
  char big[250];
  memset(big, 1, sizeof big);
  event.event_type = (mb_bytes){big, 249};
  event.actor_id = event.aggregate_type = (mb_bytes){big, sizeof big};
  event.causation_id = event.tenant_id = STR(ID);
  event.occurred_at = STR("2026-01-02T03:04:05.000001+05:30");
  event.event_version = event.aggregate_version = INT64_MAX;
  mb__encoder_free(&enc);
  ok(!mb__encode(&event, &enc, err, sizeof err) && enc.header_count == 10,
     "names that need many escapes fit");
  mb__encoder_free(&enc);
  mb__decoder_free(&dec);
}

static void encodes_time(const char *given, const char *json, const char *header) {
  mb_encoder enc = {0};
  mb_event event = least();
  char field[80], name[120];
  event.occurred_at = mb_str(given);
  bool good = !mb__encode(&event, &enc, err, sizeof err);
  mb__buf_char(&enc.value, 0);
  snprintf(field, sizeof field, "\"occurred_at\":\"%s\",", json);
  ok(good && strstr(enc.value.data, field), "occurred_at %s is written %s", given, json);
  snprintf(name, sizeof name, "and in the header %s", header);
  if (good) same(name, enc.headers[5].value.data, enc.headers[5].value.len, header);
  mb__encoder_free(&enc);
}

static void encode_fails(mb_event event, const char *text) {
  mb_encoder enc = {0};
  err[0] = 0;
  mb_err rc = mb__encode(&event, &enc, err, sizeof err);
  if (ok(rc == MB_EEVENT, "EEVENT: %s", text)) same("says so", err, strlen(err), text);
  ok(enc.value.len == 0, "and writes no value");
  ok(mb__encode(&event, &enc, NULL, 0) == MB_EEVENT, "also without errstr");
  mb__encoder_free(&enc);
}

#define FAILS(text, ...)                                                                           \
  do {                                                                                             \
    mb_event event = least();                                                                      \
    __VA_ARGS__;                                                                                   \
    encode_fails(event, text);                                                                     \
  } while (0)

static void encode_checks(void) {
  char deep[300], long_type[251];
  FAILS("event.event_type: expected UTF-8 text that is not empty, got nothing",
        event.event_type = mb_str(NULL));
  FAILS("event.event_type: expected UTF-8 text that is not empty, got \"\"",
        event.event_type = STR(""));
  FAILS("a?.event_type: expected UTF-8 text that is not empty, got \"a?\"",
        event.event_type = STR("a\xff"));
  memset(long_type, 'x', sizeof long_type);
  FAILS("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx....event_type: expected at most 249 bytes, got "
        "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\"",
        (event.event_type = (mb_bytes){long_type, 250}));
  FAILS("T.aggregate_id: expected uuid, got nothing", event.aggregate_id = mb_str(NULL));
  FAILS("T.aggregate_id: expected uuid, got \"42\"", event.aggregate_id = STR("42"));
  FAILS("T.aggregate_type: expected UTF-8 text that is not empty, got \"\"",
        event.aggregate_type = STR(""));
  FAILS("T.event_id: expected uuid, got \"\"", event.event_id = STR(""));
  FAILS("T.correlation_id: expected uuid, got \"x\"", event.correlation_id = STR("x"));
  FAILS("T.causation_id: expected uuid, got \"x\"", event.causation_id = STR("x"));
  FAILS("T.tenant_id: expected uuid, got \"x\"", event.tenant_id = STR("x"));
  FAILS("T.actor_id: expected UTF-8 text, got \"?\"", event.actor_id = STR("\xff"));
  FAILS("T.event_version: expected integer of at least 1, got -1", event.event_version = -1);
  FAILS("T.aggregate_version: expected integer of at least 1, got -5",
        event.aggregate_version = -5);
  FAILS("T.occurred_at: expected timestamp, got \"yesterday\"",
        event.occurred_at = STR("yesterday"));
  FAILS("T.data: expected an object (byte 0)", event.data = STR("[1]"));
  FAILS("T.data: expected an object (byte 0)", event.data = STR(""));
  FAILS("T.data: expected a value (byte 5)", event.data = STR("{\"a\":}"));
  FAILS("T.data: text after the object (byte 3)", event.data = STR("{} x"));
  FAILS("T.data: \"event_id\" is a base field's name (byte 18)",
        event.data = STR("{\"a\":1,\"event_id\":2}"));
  FAILS("T.data: \"metadata\" is a base field's name (byte 17)",
        event.data = STR("{\"met\\u0061data\":2}"));
  FAILS("T.metadata: expected an object (byte 1)", event.metadata = STR(" 5"));
  FAILS("T.metadata: text after the object (byte 2)", event.metadata = STR("{}]"));
  FAILS("T.metadata: invalid UTF-8 (byte 6)", event.metadata = STR("{\"a\":\"\xff\"}"));
  memset(deep, '[', sizeof deep);
  memcpy(deep, "{\"a\":", 5);
  memset(deep + 5 + 127, ']', 127);
  deep[5 + 254] = '}';
  FAILS("T.metadata: nested too deeply (byte 131)", (event.metadata = (mb_bytes){deep, 260}));
}

/* ---- event_from_json ---- */

static void from_json(const golden *g) {
  mb_event_store store = {0};
  mb_encoder enc = {0};
  mb_event event = {0};
  mb_bytes none = {NULL, 0};
  mb_err rc = mb__event_from_json((mb_bytes){g->value, g->value_len}, none, &store, &event, err,
                                  sizeof err);
  ok(!rc && !mb__encode(&event, &enc, err, sizeof err) && enc.value.len == g->value_len &&
         !memcmp(enc.value.data, g->value, g->value_len),
     "the golden value becomes an event and the same value again");
  rc = mb__event_from_json(STR(" {\"b\\n\" : [1, 2],\"aggregate_id\":\"" ID
                               "\",\"actor_id\":\"a\\tb\", \"aggregate_type\":\"\\u0041\","
                               "\"tenant_id\":null,\"event_version\":3,\"c\":{}} "),
                           STR("Default"), &store, &event, err, sizeof err);
  ok(!rc, "a line with white space, escapes and nulls is read");
  same("own fields become data", event.data.data, event.data.len, "{\"b\\n\":[1, 2],\"c\":{}}");
  same("the default type is taken", event.event_type.data, event.event_type.len, "Default");
  same("strings are unescaped", event.actor_id.data, event.actor_id.len, "a\tb");
  same("each on its own", event.aggregate_type.data, event.aggregate_type.len, "A");
  ok(!event.tenant_id.data && event.event_version == 3 && event.aggregate_version == 0,
     "null and absent are absent");
  rc = mb__event_from_json(STR("{\"event_type\":\"Given\"}"), STR("Default"), &store, &event, err,
                           sizeof err);
  same("a type that is given wins", event.event_type.data, event.event_type.len, "Given");
  ok(!rc && !event.data.data, "without own fields there is no data");

  static const struct {
    const char *text;
    mb_err rc;
    const char *error;
  } rows[] = {
      {"", MB_EDECODE, "not a JSON object: expected an object (byte 0)"},
      {"[1]", MB_EDECODE, "not a JSON object: expected an object (byte 0)"},
      {"{\"a\":1", MB_EDECODE, "not a JSON object: the text ends too early (byte 6)"},
      {"{} {}", MB_EDECODE, "not a JSON object: text after the object (byte 3)"},
      {"{\"event_id\":5}", MB_EEVENT, "event.event_id: expected string, got number 5 (byte 12)"},
      {"{\"event_type\":\"T\",\"event_version\":0}", MB_EEVENT,
       "T.event_version: expected integer of at least 1, got number 0 (byte 34)"},
      {"{\"event_version\":\"1\"}", MB_EEVENT,
       "event.event_version: expected integer of at least 1, got string \"1\" (byte 17)"},
      {"{\"metadata\":[]}", MB_EEVENT, "event.metadata: expected object, got an array (byte 12)"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    mb_event before = event;
    rc = mb__event_from_json(mb_str(rows[i].text), none, &store, &event, err, sizeof err);
    ok(rc == rows[i].rc && !memcmp(&before, &event, sizeof event), "%s is refused", rows[i].text);
    same("and told why", err, strlen(err), rows[i].error);
  }
  mb__event_store_free(&store);
  mb__encoder_free(&enc);
}

/* ---- both ---- */

static mb_decoder doc;

/* Whatever is encoded is decoded to the same. */
static void round_trip(void) {
  mb_encoder enc = {0};
  mb_schema *schema = mb__schema_new(STR("Round"));
  uint64_t state = seed;
  bool right = !mb__schema_add(schema, STR("n"), STR("number"), err, sizeof err) &&
               !mb__schema_add(schema, STR("s"), STR("string"), err, sizeof err);
  for (int i = 0; i < 20000 && right; i++) {
    mb_buf data = {0};
    char text[16], occurred[MB_TIME_MAX], id[MB_UUID_LEN];
    double d = (double)(int64_t)roll(&state) / 1e6;
    size_t len = roll(&state) % sizeof text;
    for (size_t k = 0; k < len; k++) text[k] = (char)(roll(&state) & 0x7f);
    mb__buf_lit(&data, "{\"n\":");
    mb__json_write_double(&data, d);
    mb__buf_lit(&data, ", \"s\" :");
    mb__json_write_string(&data, (mb_bytes){text, len});
    mb__buf_char(&data, '}');
    mb__uuid_random(id);
    mb_event event = {.event_type = STR("Round"),
                      .aggregate_id = {id, sizeof id},
                      .aggregate_type = {len ? text : "x", len ? len : 1},
                      .actor_id = {text, len},
                      .data = mb__buf_bytes(&data),
                      .event_version = 1 + (int64_t)(roll(&state) >> 2)};
    event.occurred_at =
        (mb_bytes){occurred, mb__time_format(occurred, (int64_t)(roll(&state) >> 12), "Z")};
    const mb_value *v = doc.values;
    right = !mb__encode(&event, &enc, err, sizeof err) &&
            !mb__decode(schema, mb__buf_bytes(&enc.value), NULL, &doc, err, sizeof err) &&
            !decode_wrong(schema, &doc) && v[12].as.d == d && v[13].as.s.len == len &&
            !memcmp(v[13].as.s.data, text, len) && !memcmp(v[MB_F_ACTOR_ID].as.s.data, text, len) &&
            holds(&v[MB_F_OCCURRED_AT], occurred) &&
            v[MB_F_EVENT_VERSION].as.i == event.event_version &&
            !memcmp(v[MB_F_AGGREGATE_ID].as.s.data, id, sizeof id);
    mb__buf_free(&data);
  }
  ok(right, "random events are decoded as they were encoded");
  mb__encoder_free(&enc);
  mb__schema_free(schema);
}

static const char *golden_path(int argc, char **argv) {
  static char path[1024];
  const char *slash = strrchr(__FILE__, '/');
  if (argc > 1) return argv[1];
  snprintf(path, sizeof path, "%.*s../../support/golden.json",
           slash ? (int)(slash - __FILE__ + 1) : 0, __FILE__);
  return path;
}

int main(int argc, char **argv) {
  static golden g;
  if (argc > 2) seed = strtoull(argv[2], NULL, 0);
  printf("# seed %llu\n", (unsigned long long)seed);
  if (ok(golden_load(&g, golden_path(argc, argv)), "the golden event is at hand")) {
    golden_encodes(&g);
    golden_decodes(&g);
    mutations(&g);
    from_json(&g);
  }
  encodes_defaults();
  encodes_time("2026-01-02T03:04:05.120000Z", "2026-01-02T03:04:05.120000Z",
               "2026-01-02T03:04:05.120000+00:00");
  encodes_time("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00");
  encodes_time("2026-01-02T03:04:05+05:30", "2026-01-02T03:04:05+05:30",
               "2026-01-02T03:04:05+05:30");
  encodes_time("2026-01-02 03:04:05.5", "2026-01-02T03:04:05.500000Z",
               "2026-01-02T03:04:05.500000+00:00");
  encode_checks();
  round_trip();
  mb__decoder_free(&doc);
  return done();
}
