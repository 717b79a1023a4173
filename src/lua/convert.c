/* lua/convert.c: JSON <-> Lua values, exactly.
 * Must not know events, buses or Kafka; the JSON rules are base/json.c's.
 * Called by lua/type.c, lua/handler.c, and as moonbus.json.
 *
 * null is the light userdata NULL (lua-cjson's null as well); arrays carry a metatable so that an
 * empty one stays an array; integers beyond 2^53 are LuaJIT's 64-bit cdata. */
#include <math.h>
#include <string.h>

#include "lua/internal.h"

#define EXACT_MAX 9007199254740992LL /* 2^53 */
#define TCDATA    10                 /* LuaJIT's mbl_type of cdata; its headers do not name it */

/* Addresses serve as registry keys. */
static char array_key, numbered_key, make_int64_key, kind_of_key, sort_key;

/* ---- opening ---- */

void mb__lua_convert_open(lua_State *L) {
  lua_pushlightuserdata(L, &array_key);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "moonbus.array");
  lua_setfield(L, -2, "__name");
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, &numbered_key);
  lua_createtable(L, 0, 0);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

void mb__lua_push_array_mark(lua_State *L) {
  lua_pushlightuserdata(L, &array_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
}

void mb__lua_new_array(lua_State *L, int size) {
  lua_createtable(L, size, 0);
  mb__lua_push_array_mark(L);
  lua_setmetatable(L, -2);
}

void mb__lua_new_numbered(lua_State *L) {
  lua_newtable(L);
  lua_pushlightuserdata(L, &numbered_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_setmetatable(L, -2);
}

/* core.set_int64(make, kind): make(negative, high, low) -> cdata; kind(cdata) -> "int", "uint",
 * "float" or nil. The C API can neither make nor distinguish cdata. */
int mb__l_set_int64(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushlightuserdata(L, &make_int64_key);
  lua_pushvalue(L, 1);
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, &kind_of_key);
  lua_pushvalue(L, 2);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return 0;
}

/* core.set_sort(sort): Lua's own table.sort, by which an object's members are put in order. */
int mb__l_set_sort(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushlightuserdata(L, &sort_key);
  lua_pushvalue(L, 1);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return 0;
}

/* ---- JSON -> Lua ---- */

static void push_int64(lua_State *L, bool is_signed, uint64_t bits) {
  lua_pushlightuserdata(L, &make_int64_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushboolean(L, is_signed);
  lua_pushnumber(L, (lua_Number)(bits >> 32));
  lua_pushnumber(L, (lua_Number)(bits & 0xffffffffu));
  lua_call(L, 3, 1);
}

static bool push_next(lua_State *L, mb_json *json);

static bool push_object(lua_State *L, mb_json *json) {
  bool first = true;
  mb_bytes key;
  int more;
  if (!mb__json_enter_object(json)) return false;
  lua_createtable(L, 0, 4);
  while ((more = mb__json_next_key(json, &first, &key)) > 0) {
    lua_pushlstring(L, key.data, key.len);
    if (!push_next(L, json)) return false;
    lua_rawset(L, -3);
  }
  return more == 0;
}

static bool push_element(lua_State *L, mb_json *json, mb_type type);

static bool push_array(lua_State *L, mb_json *json, mb_type type) {
  bool first = true;
  int more, n = 0;
  if (!mb__json_enter_array(json)) return false;
  mb__lua_new_array(L, 4);
  while ((more = mb__json_next_item(json, &first)) > 0) {
    if (!push_element(L, json, type)) return false;
    lua_rawseti(L, -2, ++n);
  }
  return more == 0;
}

static void push_scalar(lua_State *L, const mb_value *value) {
  switch (value->kind) {
  case MB_NULL: lua_pushlightuserdata(L, NULL); break;
  case MB_BOOL: lua_pushboolean(L, value->as.b); break;
  case MB_INT:
    if (value->as.i >= -EXACT_MAX && value->as.i <= EXACT_MAX)
      lua_pushnumber(L, (lua_Number)value->as.i);
    else
      push_int64(L, true, (uint64_t)value->as.i);
    break;
  case MB_UINT: push_int64(L, false, value->as.u); break;
  case MB_DOUBLE: lua_pushnumber(L, value->as.d); break;
  case MB_STRING:
    lua_pushlstring(L, value->as.s.data ? value->as.s.data : "", value->as.s.len);
    break;
  case MB_JSON: lua_pushnil(L); break;
  }
}

/* One value at the cursor; the depth is bounded by base/json.c. */
static bool push_next(lua_State *L, mb_json *json) {
  mb_value value;
  luaL_checkstack(L, 4, "JSON nested too deeply");
  char next = mb__json_peek(json);
  if (next == '{') return push_object(L, json);
  if (next == '[') return push_array(L, json, MB_T_ANY);
  if (!mb__json_value(json, &value)) return false;
  push_scalar(L, &value);
  return true;
}

/* The same of an element that fits the type: as a field of that type is. */
static bool push_element(lua_State *L, mb_json *json, mb_type type) {
  char slot[MB_TIME_MAX];
  mb_value value;
  if (type >= MB_T_OBJECT) return push_next(L, json);
  mb__json_peek(json);
  const char *from = json->at;
  if (!mb__json_value(json, &value)) return false;
  mb__fit(type, (mb_bytes){from, (size_t)(json->at - from)}, &value, slot);
  push_scalar(L, &value);
  return true;
}

/* The cursor owns memory once a string has escapes; a Lua error must not leak it. */
typedef struct push_job {
  mb_json json;
  const mb_type *elements; /* NULL: any value; else an array of them */
  bool ok;
} push_job;

static int protected_push(lua_State *L) {
  push_job *job = lua_touserdata(L, 1);
  lua_settop(L, 0);
  job->ok = job->elements ? push_array(L, &job->json, *job->elements) : push_next(L, &job->json);
  job->ok = job->ok && mb__json_at_end(&job->json);
  if (!job->ok && !job->json.error) job->json.error = "text after the value";
  return job->ok ? 1 : 0;
}

static bool push_text(lua_State *L, mb_bytes text, const mb_type *elements) {
  push_job job = {.elements = elements};
  mb__json_init(&job.json, text);
  lua_pushcfunction(L, protected_push);
  lua_pushlightuserdata(L, &job);
  int status = lua_pcall(L, 1, 1, 0);
  size_t at = mb__json_offset(&job.json);
  const char *why = job.json.error;
  mb__json_done(&job.json);
  if (status) lua_error(L);
  if (job.ok) return true;
  lua_pop(L, 1);
  lua_pushfstring(L, "not JSON: %s (byte %d)", why, (int)at);
  return false;
}

bool mb__lua_push_json(lua_State *L, mb_bytes text) {
  return push_text(L, text, NULL);
}

void mb__lua_push_list(lua_State *L, mb_bytes text, mb_type type) {
  if (!push_text(L, text, &type)) lua_error(L);
}

void mb__lua_push_value(lua_State *L, const mb_value *value) {
  if (value->kind != MB_JSON)
    push_scalar(L, value);
  else if (!mb__lua_push_json(L, value->as.s))
    lua_error(L);
}

/* ---- Lua -> JSON ---- */

/* "int", "uint", "float" or 0, by the first letter. */
static char cdata_kind(lua_State *L, int index) {
  lua_pushvalue(L, index);
  lua_pushlightuserdata(L, &kind_of_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_insert(L, -2);
  lua_call(L, 1, 1);
  const char *kind = lua_tostring(L, -1);
  char first = kind ? kind[0] : 0;
  lua_pop(L, 1);
  return first;
}

bool mb__lua_to_integer(lua_State *L, int index, mb_value *value) {
  if (lua_type(L, index) == LUA_TNUMBER) {
    double d = lua_tonumber(L, index);
    if (d != floor(d) || !(d >= -9223372036854775808.0 && d < 9223372036854775808.0)) return false;
    *value = (mb_value){.kind = MB_INT, .as.i = (int64_t)d};
    return true;
  }
  if (lua_type(L, index) != TCDATA) return false;
  char kind = cdata_kind(L, index);
  const void *at = lua_topointer(L, index);
  if (kind == 'i')
    *value = (mb_value){.kind = MB_INT, .as.i = *(const int64_t *)at};
  else if (kind == 'u')
    *value = (mb_value){.kind = MB_UINT, .as.u = *(const uint64_t *)at};
  else
    return false;
  return true;
}

bool mb__lua_to_float(lua_State *L, int index) {
  if (lua_type(L, index) != TCDATA || cdata_kind(L, index) != 'f') return false;
  double d = *(const double *)lua_topointer(L, index);
  if (!isfinite(d)) return false;
  lua_pushnumber(L, d);
  return true;
}

static bool write_any(lua_State *L, int index, mb_buf *buf, int depth);

static bool write_number(lua_State *L, int index, mb_buf *buf) {
  double d = lua_tonumber(L, index);
  if (d == floor(d) && d >= -(double)EXACT_MAX && d <= (double)EXACT_MAX &&
      !(d == 0 && signbit(d))) {
    mb__json_write_int(buf, (int64_t)d);
    return true;
  }
  if (mb__json_write_double(buf, d)) return true;
  lua_pushliteral(L, "NaN and infinities have no place in JSON");
  return false;
}

static bool write_cdata(lua_State *L, int index, mb_buf *buf) {
  mb_value value;
  if (mb__lua_to_integer(L, index, &value)) {
    if (value.kind == MB_INT)
      mb__json_write_int(buf, value.as.i);
    else
      mb__json_write_uint(buf, value.as.u);
    return true;
  }
  if (cdata_kind(L, index) == 'f' &&
      mb__json_write_double(buf, *(const double *)lua_topointer(L, index)))
    return true;
  lua_pushliteral(L, "this cdata has no place in JSON (64-bit integers and moonbus.float have)");
  return false;
}

static bool write_array(lua_State *L, int index, int length, mb_buf *buf, int depth) {
  mb__buf_char(buf, '[');
  for (int i = 1; i <= length; i++) {
    if (i > 1) mb__buf_char(buf, ',');
    lua_rawgeti(L, index, i);
    if (lua_isnil(L, -1))
      mb__buf_lit(buf, "null");
    else if (!write_any(L, lua_gettop(L), buf, depth))
      return false;
    lua_pop(L, 1);
  }
  mb__buf_char(buf, ']');
  return true;
}

static bool write_member(lua_State *L, int key, int value, mb_buf *buf, bool first, int depth) {
  mb_bytes name;
  name.data = lua_tolstring(L, key, &name.len);
  if (!first) mb__buf_char(buf, ',');
  if (!mb__json_write_string(buf, name)) {
    lua_pushliteral(L, "a key is not valid UTF-8");
    return false;
  }
  mb__buf_char(buf, ':');
  return write_any(L, value, buf, depth);
}

/* Members in the order of their names: the same table gives the same bytes. */
static bool write_object(lua_State *L, int index, int count, mb_buf *buf, int depth) {
  int keys = lua_gettop(L) + 1, n = 0;
  lua_createtable(L, count, 0);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, keys, ++n);
  }
  lua_pushlightuserdata(L, &sort_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  lua_pushvalue(L, keys);
  lua_call(L, 1, 0);
  mb__buf_char(buf, '{');
  for (int i = 1; i <= n; i++) {
    lua_rawgeti(L, keys, i);
    lua_pushvalue(L, -1);
    lua_rawget(L, index);
    if (!write_member(L, lua_gettop(L) - 1, lua_gettop(L), buf, i == 1, depth)) return false;
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
  mb__buf_char(buf, '}');
  return true;
}

static bool has_mark(lua_State *L, int index, char *key) {
  if (!lua_getmetatable(L, index)) return false;
  lua_pushlightuserdata(L, key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same;
}

/* An array has the mark, or keys 1..n and nothing else; an object has text keys and nothing else,
 * or the other mark and numbers. */
static bool write_table(lua_State *L, int index, mb_buf *buf, int depth) {
  int texts = 0, numbers = 0, largest = 0;
  if (depth >= MB_JSON_DEPTH) {
    lua_pushliteral(L, "tables nested too deeply (is there a cycle?)");
    return false;
  }
  luaL_checkstack(L, 8, "tables nested too deeply");
  bool numbered = has_mark(L, index, &numbered_key);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) == LUA_TSTRING || numbered) {
      texts++;
      continue;
    }
    double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
    if (key < 1 || key != floor(key) || key > 1e7) {
      lua_pushfstring(L, "a table key of type %s has no place in JSON", luaL_typename(L, -1));
      return false;
    }
    numbers++;
    if ((int)key > largest) largest = (int)key;
  }
  bool array = has_mark(L, index, &array_key);
  if (texts && (numbers || array)) {
    lua_pushliteral(L, "a table with both text keys and array elements has no place in JSON");
    return false;
  }
  if (!array && largest > numbers) {
    lua_pushfstring(L,
                    "an array with holes (%d elements, the last at %d) has no place in JSON; use "
                    "moonbus.null for them, or moonbus.array",
                    numbers, largest);
    return false;
  }
  if (array || numbers) return write_array(L, index, largest, buf, depth + 1);
  return write_object(L, index, texts, buf, depth + 1);
}

static bool write_any(lua_State *L, int index, mb_buf *buf, int depth) {
  mb_bytes text;
  switch (lua_type(L, index)) {
  case LUA_TNIL: mb__buf_lit(buf, "null"); return true;
  case LUA_TBOOLEAN:
    if (lua_toboolean(L, index))
      mb__buf_lit(buf, "true");
    else
      mb__buf_lit(buf, "false");
    return true;
  case LUA_TNUMBER: return write_number(L, index, buf);
  case LUA_TSTRING:
    text.data = lua_tolstring(L, index, &text.len);
    if (mb__json_write_string(buf, text)) return true;
    lua_pushliteral(L, "a string is not valid UTF-8");
    return false;
  case LUA_TTABLE: return write_table(L, index, buf, depth);
  case TCDATA: return write_cdata(L, index, buf);
  case LUA_TLIGHTUSERDATA:
    if (!lua_touserdata(L, index)) {
      mb__buf_lit(buf, "null");
      return true;
    }
  /* fallthrough */
  default: lua_pushfstring(L, "a %s has no place in JSON", luaL_typename(L, index)); return false;
  }
}

bool mb__lua_write_json(lua_State *L, int index, mb_buf *buf) {
  int top = lua_gettop(L);
  if (index < 0) index = top + index + 1;
  if (!write_any(L, index, buf, 0)) {
    if (lua_gettop(L) > top + 1) lua_replace(L, top + 1);
    lua_settop(L, top + 1);
    return false;
  }
  lua_settop(L, top);
  if (!buf->failed) return true;
  lua_pushliteral(L, "too large");
  return false;
}

/* ---- moonbus.json ---- */

static int buf_gc(lua_State *L) {
  mb__buf_free(lua_touserdata(L, 1));
  return 0;
}

/* json.encode(value) -> text | nil, reason */
int mb__l_json_encode(lua_State *L) {
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  mb_buf *buf = lua_newuserdata(L, sizeof *buf);
  *buf = (mb_buf){0};
  if (luaL_newmetatable(L, "moonbus.buffer")) {
    lua_pushcfunction(L, buf_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, 2);
  if (!mb__lua_write_json(L, 1, buf)) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  lua_pushlstring(L, buf->data ? buf->data : "", buf->len);
  mb__buf_free(buf);
  return 1;
}

/* json.decode(text) -> value | nil, reason */
int mb__l_json_decode(lua_State *L) {
  mb_bytes text;
  text.data = luaL_checklstring(L, 1, &text.len);
  if (mb__lua_push_json(L, text)) return 1;
  lua_pushnil(L);
  lua_insert(L, -2);
  return 2;
}
