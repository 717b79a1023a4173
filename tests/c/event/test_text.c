/* test_text.c: UUIDs, timestamps, partitions and schemas.
 * Must not need a broker.
 * Run by ctest. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "event/codec.h"
#include "event/partition.h"

#define STR(literal) ((mb_bytes){literal, sizeof literal - 1})
#define ID           "11111111-2222-4333-8444-555555555555"

static uint64_t seed = 20260102;
static char err[512];

/* ---- small text rules ---- */

static void uuids(void) {
  static const char *const bad[] = {"",
                                    "1",
                                    "11111111-2222-4333-8444-55555555555",
                                    "11111111-2222-4333-8444-5555555555555",
                                    "1111111122224333844455555555555",
                                    "11111111-2222-4333-84445-55555555555",
                                    "11111111_2222_4333_8444_555555555555",
                                    "{11111111-2222-4333-8444-555555555555",
                                    "11111111-2222-4333-8444-555555555555}",
                                    "urn:uuid:",
                                    "{}",
                                    "{{" ID "}}",
                                    "urn:uuid:{" ID "}",
                                    "11111111-2222-4333-8444-55555555555g",
                                    "11111111-2222-4333-8444-55555555555\xb1",
                                    (" " ID),
                                    "--------------------------------",
                                    "------------------------------------"};
  char out[MB_UUID_LEN], seen[MB_UUID_LEN];
  bool canonical = false;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    ok(!mb__uuid_parse(mb_str(bad[i]), out, NULL), "'%s' is no UUID", bad[i]);
  ok(mb__uuid_parse(STR(ID), out, &canonical) && canonical, "the canonical form is known as such");
  ok(mb__uuid_parse(STR("1111111A-2222-4333-8444-555555555555"), out, &canonical) && !canonical &&
         out[7] == 'a',
     "upper case is lowered");
  ok(!mb__uuid_parse((mb_bytes){NULL, 0}, out, NULL), "no text is no UUID");

  bool right = true;
  for (int i = 0; i < 1000 && right; i++) {
    memcpy(seen, out, sizeof out);
    mb__uuid_random(out);
    right = mb__uuid_parse((mb_bytes){out, sizeof out}, out, &canonical) && canonical &&
            out[14] == '4' && strchr("89ab", out[19]) && memcmp(out, seen, sizeof out);
  }
  ok(right, "random UUIDs are of version 4 and differ");
  mb__uuid_from_name(out, NULL, STR("https://www.example.com/"));
  same("a name gives the UUID of RFC 9562's version 5 in the URL name space", out, sizeof out,
       "3d3ed9d2-aa3d-5fa6-90e8-ed662e90f559");

  int pipes[2];
  char child[MB_UUID_LEN] = "";
  if (pipe(pipes)) return;
  pid_t pid = fork();
  mb__uuid_random(out);
  if (!pid) _exit(write(pipes[1], out, sizeof out) != sizeof out);
  ok(read(pipes[0], child, sizeof child) == sizeof child && memcmp(child, out, sizeof out),
     "a forked process has UUIDs of its own");
  waitpid(pid, NULL, 0);
  close(pipes[0]);
  close(pipes[1]);
}

static void times(void) {
  static const struct {
    const char *text, *wire;
  } rows[] = {
      {"2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"},
      {"2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.678901Z"},
      {"2026-01-02T03:04:05.678901+05:30", "2026-01-02T03:04:05.678901+05:30"},
      {"2026-01-02T03:04:05-11:00", "2026-01-02T03:04:05-11:00"},
      {"2026-01-02T03:04:05.678901+00:00", "2026-01-02T03:04:05.678901Z"},
      {"2026-01-02T03:04:05-00:00", "2026-01-02T03:04:05Z"},
      {"2026-01-02T03:04:05+0530", "2026-01-01T21:34:05Z"},
      {"2026-01-02T03:04:05.1+05:30", "2026-01-01T21:34:05.100000Z"},
      {"2026-01-02 03:04:05Z", "2026-01-02T03:04:05Z"},
      {"2026-01-02T03:04:05", "2026-01-02T03:04:05Z"},
      {"2026-01-02", "2026-01-02T00:00:00Z"},
      {"2026-01-02T03:04:05.000000Z", "2026-01-02T03:04:05Z"},
      {"2026-01-02T03:04:05.1234567899999999999999Z", "2026-01-02T03:04:05.123456Z"},
      {"2026-01-02T23:59:59.999999-23:59", "2026-01-02T23:59:59.999999-23:59"},
      {"2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"},
      {"2000-02-29T00:00:00Z", "2000-02-29T00:00:00Z"},
      {"0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
      {"9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"},
      {"1969-12-31T23:59:59.999999+0000", "1969-12-31T23:59:59.999999Z"},
      {"", NULL},
      {"2026", NULL},
      {"2026-1-2", NULL},
      {"2026-01-02T", NULL},
      {"2026-01-02T03:04", NULL},
      {"2026-01-02T03:04:60Z", NULL},
      {"2026-01-02T03:60:00Z", NULL},
      {"2026-01-02T24:00:00Z", NULL},
      {"2026-00-02", NULL},
      {"2026-13-02", NULL},
      {"2026-01-00", NULL},
      {"2026-01-32", NULL},
      {"2026-04-31", NULL},
      {"2025-02-29", NULL},
      {"1900-02-29", NULL},
      {"0000-01-01", NULL},
      {"10000-01-01", NULL},
      {"-001-01-01", NULL},
      {"2026-01-02T03:04:05.Z", NULL},
      {"2026-01-02T03:04:05ZZ", NULL},
      {"2026-01-02T03:04:05+5:30", NULL},
      {"2026-01-02T03:04:05+24:00", NULL},
      {"2026-01-02T03:04:05+05:60", NULL},
      {"2026-01-02T03:04:05+05", NULL},
      {"0001-01-01T00:00:00+00:01", NULL},
      {"9999-12-31T23:59:59-00:01", NULL},
      {"2026-01-02Z", NULL},
      {" 2026-01-02", NULL},
      {"2026-01-02 ", NULL},
      {"2026/01/02", NULL},
      {"20260102T030405Z", NULL},
      {"2026-01-02T03:04:05\xff", NULL},
  };
  char out[MB_TIME_MAX], name[100];
  mb_bytes wire;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    bool good = mb__time_normalise(mb_str(rows[i].text), out, &wire);
    snprintf(name, sizeof name, "the time '%s' is %s", rows[i].text,
             rows[i].wire ? rows[i].wire : "refused");
    if (good && rows[i].wire)
      same(name, wire.data, wire.len, rows[i].wire);
    else
      ok(good == (rows[i].wire != NULL), "%s", name);
  }
  uint64_t state = seed;
  bool right = true;
  int64_t us = 0, again = 0, low = INT64_C(-62135596800000000), span = INT64_C(315537897600000000);
  for (int i = 0; i < 200000 && right; i++) {
    us = low + (int64_t)(roll(&state) % (uint64_t)span);
    if (i & 1) us -= us % 1000000;
    size_t len = mb__time_format(out, us, i & 2 ? "Z" : "+00:00");
    right = mb__time_parse((mb_bytes){out, len}, &again) && again == us && !out[len];
  }
  ok(right, "random times are read as they were written (last: %s)", out);
  ok(mb__time_format(out, INT64_MAX, "Z") == 27 &&
         !memcmp(out, "9999-12-31T23:59:59.999999Z", 28) &&
         mb__time_format(out, INT64_MIN, "+00:00") == 25,
     "times beyond the calendar stop at its ends");
  ok(mb__now_us() > INT64_C(1700000000000000), "it is later than 2023");
}

static void partitions(void) {
  mb_bytes seven = STR("00000000-0000-0000-0000-000000000007");
  mb_bytes letters = STR("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee");
  ok(mb__murmur2(seven) == 220997252 && mb__murmur2(letters) == 1627608976, "murmur2's vectors");
  ok(mb__partition_of(seven, 3) == 2 && mb__partition_of(seven, 4) == 0 &&
         mb__partition_of(seven, 6) == 2 && mb__partition_of(seven, 12) == 8,
     "partitions of the first key");
  ok(mb__partition_of(letters, 3) == 1 && mb__partition_of(letters, 4) == 0 &&
         mb__partition_of(letters, 6) == 4 && mb__partition_of(letters, 12) == 4,
     "partitions of the second");
  /* the Java client's own test vectors, for keys whose length is no multiple of four */
  ok((int32_t)mb__murmur2(STR("21")) == -973932308 &&
         (int32_t)mb__murmur2(STR("foobar")) == -790332482 &&
         (int32_t)mb__murmur2(STR("a-little-bit-long-string")) == -985981536 &&
         (int32_t)mb__murmur2(STR("a-little-bit-longer-string")) == -1486304829 &&
         (int32_t)mb__murmur2(STR("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8")) ==
             -58897971 &&
         (int32_t)mb__murmur2(STR("abc")) == 479470107,
     "the Java client's vectors");
  ok(mb__partition_of(seven, 0) == -1, "no partitions, no partition");
  ok(mb__partition_of((mb_bytes){NULL, 0}, 4) >= 0, "an absent key has one");
}

static void schema_refuses(mb_schema *schema, mb_bytes name, const char *spec,
                           const char *expected) {
  size_t before = schema->count;
  mb_err rc = mb__schema_add(schema, name, mb_str(spec), err, sizeof err);
  ok(rc == MB_EINVAL && schema->count == before, "a schema refuses %s", expected);
  ok(strstr(err, expected) != NULL, "saying so: %s", err);
}

static void schemas(void) {
  char long_name[250], spec[24];
  mb_schema *schema = mb__schema_new(STR("T"));
  memset(long_name, 'x', sizeof long_name);
  ok(!mb__schema_new(STR("")) && !mb__schema_new((mb_bytes){NULL, 0}) &&
         !mb__schema_new(STR("\xff")) && !mb__schema_new((mb_bytes){long_name, 250}),
     "names of event types are 1 to 249 bytes of UTF-8");
  ok(schema->count == MB_F_BASE_COUNT && schema->fields[MB_F_METADATA].base &&
         mb__schema_base()->count == MB_F_BASE_COUNT,
     "every schema begins with the base fields");
  ok(!mb__schema_add(schema, STR("tags"), STR("string[]?"), err, sizeof err) &&
         schema->fields[12].array_of && schema->fields[12].optional && !schema->fields[12].base,
     "a field is added");
  mb__field_spec(&schema->fields[12], spec, sizeof spec);
  same("and its spec comes back", spec, strlen(spec), "string[]?");
  ok(!strcmp(mb__field_spec(&schema->fields[MB_F_TENANT_ID], spec, sizeof spec), "uuid?"),
     "as do those of base fields");
  schema_refuses(schema, STR("tags"), "string", "is declared twice");
  schema_refuses(schema, STR("event_id"), "uuid", "has the name of a base field");
  schema_refuses(schema, STR(""), "uuid", "has no name");
  schema_refuses(schema, STR("a\"b"), "uuid", "quote");
  schema_refuses(schema, STR("\xff"), "uuid", "no UTF-8");
  schema_refuses(schema, STR("x"), "float", "unknown type \"float\"; the types are string, number");
  schema_refuses(schema, STR("x"), "", "unknown type \"\"");
  schema_refuses(schema, STR("x"), "?", "unknown type");
  schema_refuses(schema, STR("x"), "[]", "unknown type");
  schema_refuses(schema, STR("x"), "string?[]", "unknown type");
  schema_refuses(schema, STR("x"), "string[][]", "unknown type");
  ok(mb__schema_add(schema, STR("x"), STR("nope"), NULL, 0) == MB_EINVAL, "also without errstr");
  mb__schema_free(schema);
  mb__schema_free(NULL);
  mb__decoder_free(NULL);
  mb__encoder_free(NULL);
  mb__event_store_free(NULL);
}
int main(int argc, char **argv) {
  if (argc > 1) seed = strtoull(argv[1], NULL, 0);
  printf("# seed %llu\n", (unsigned long long)seed);
  uuids();
  times();
  partitions();
  schemas();
  return done();
}
