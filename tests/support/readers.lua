--- One text, by readers that share nothing: moonbus.json, the decoder of typed events and that of
-- undeclared ones, against lua-cjson, the grammar of RFC 8259, what the manual and the wire's
-- contract say of declared types, and Python. What they do not agree on is an error.
local declared = require "tests.support.declared"
local moonbus = require "moonbus"
local rfc = require "tests.support.rfc8259"
local support = require "tests.support.bus"
local texts = require "tests.support.event_texts"
local values = require "tests.support.values"

local readers = {}

-- As strict as it can be made.
local cjson = require "cjson".new()
cjson.decode_invalid_numbers(false)
cjson.decode_max_depth(rfc.DEPTH)
readers.cjson = cjson

local registry = moonbus.new_registry()
local native, derived_id, untyped_meta

--- Make the bus whose decoder is meant.
function readers.open()
  native = support.new({ event_registry = registry }).native
  local event = assert(native:decode(
    '{"event_type":"T","aggregate_id":"' .. support.uuid(1) .. '","aggregate_type":"A"}'))
  derived_id, untyped_meta = event.event_id, getmetatable(event)
  readers.native = native
end

--- A type with these fields: { { name, spec }, ... }.
function readers.declare(name, fields)
  local list, order = { aggregate_type = "A" }, {}
  for i, field in ipairs(fields) do list[i] = field end
  for _, field in ipairs(declared.BASE) do order[#order + 1] = field[1] end
  for _, field in ipairs(fields) do order[#order + 1] = field[1] end
  return { name = name, fields = fields, order = order,
    type = moonbus.event(name, list, { registry = registry }) }
end

function readers.forget(kind)
  registry:remove(kind.name)
end

-- ---- Python ----

local PYTHON = [[
import json, sys

def refuse(name):
    raise ValueError(name)

texts = 0
while head := sys.stdin.buffer.readline():
    expected, size = head.split()
    text = sys.stdin.buffer.read(int(size))
    texts += 1
    try:
        json.loads(text.decode(), parse_int=str, parse_float=str, parse_constant=refuse)
        verdict = b"JSON"
    except ValueError:
        verdict = b"not"
    if verdict != expected:
        print("Python says", verdict, "of", text)
print("read", texts)
]]

local python, sent

--- Let Python judge every text that is checked from now on; its report goes to that file. false:
-- there is none.
function readers.start_python(report)
  if os.execute "python3 -c 'import json' 2>/dev/null" ~= 0 then return false end
  python = assert(io.popen(("python3 -c '%s' >'%s' 2>&1"):format(PYTHON, report), "w"))
  sent = 0
  return true
end

local function send_python(text, r)
  if not python or r.faults.depth then return end -- how deep it reads depends on its own stack
  sent = sent + 1
  python:write(rfc.takes(r, "python") and "JSON " or "not ", #text, "\n", text)
end

--- Let it end: what it is to have reported if it agreed on everything.
function readers.end_python()
  python:close()
  python = nil
  return ("read %d\n"):format(sent)
end

-- ---- events ----

-- Whether the error names one of the fields; names that are cut or changed for messages count.
local function named(why, misfits)
  for _, name in ipairs(misfits) do
    local _, stop = why:find("." .. name, 1, true)
    if #name > 40 or name:find "%c" or stop and why:find("^[:[]", stop + 1) then return true end
  end
end

-- The text decoded as an event. is_json: whether it is; expected: the event that it is; nil when it
-- is no object, or its members that misfits names do not fit.
local function check_decoded(text, kind, is_json, expected, misfits)
  local event, why = native:decode(text, kind and kind.type.__moonbus)
  local not_json = not event and why:find("EDECODE: value is not JSON: ", 1, true) == 1
  if is_json == not_json then error("the decoder's verdict: " .. tostring(why or "an event"), 0) end
  if expected then
    if not event then error("refused: " .. why, 0) end
    values.check_same(expected, event)
  elseif event then
    error("accepted, though it is no object or these do not fit: "
      .. table.concat(misfits or {}, ", "), 0)
  elseif misfits and not named(why, misfits) then
    error(("refused for another reason: %s; what does not fit: %s"):format(why,
      table.concat(misfits, ", ")), 0)
  elseif is_json and not misfits and not why:find("value is not a JSON object: ", 1, true) then
    error("refused for another reason: " .. why, 0)
  end
end

local function expected_event(kind, object, theirs)
  local event, misfits = declared.event(kind.fields, object, theirs, derived_id)
  if misfits[1] then return nil, misfits end
  return setmetatable(event, kind.type)
end

-- Of a type that is not declared: all there is, with the base fields as of any event.
local function expected_untyped(whole, object, theirs)
  local event, misfits = declared.event({}, object, theirs, derived_id)
  if misfits[1] then return nil, misfits end
  for _, field in ipairs(declared.BASE) do whole[field[1]] = event[field[1]] end
  return setmetatable(whole, untyped_meta)
end

-- ---- all of them ----

local function check_verdicts(text, r)
  send_python(text, r)
  local taken, theirs = pcall(cjson.decode, text)
  if taken ~= rfc.takes(r, "cjson") then error("lua-cjson's verdict: " .. tostring(theirs), 0) end
  local ours, why = moonbus.json.decode(text)
  local is_json = ours ~= nil
  if is_json ~= rfc.takes(r, "moonbus") then
    error("moonbus.json's verdict: " .. tostring(why or "JSON"), 0)
  end
  return is_json, theirs, ours
end

-- The collector of MB_GC looks for values that moonbus does not hold. It would slow down what is
-- plain Lua, to no end.
local function read_by_grammar(text)
  if os.getenv "MB_GC" then collectgarbage "stop" end
  local r = rfc.read(text)
  if os.getenv "MB_GC" then collectgarbage "restart" end
  return r
end

local function check(text, kind, random)
  local r = read_by_grammar(text)
  local is_json, theirs, ours = check_verdicts(text, r)
  if not is_json then
    check_decoded(text, nil, false)
    check_decoded(text, kind, false)
    return "not JSON"
  end
  local whole = declared.exact(r.value, theirs)
  values.check_same(whole, ours)
  if type(r.value) ~= "table" or getmetatable(r.value) ~= rfc.Object then
    check_decoded(text, nil, true)
    check_decoded(text, kind, true)
    return "JSON"
  end
  local event, misfits = expected_event(kind, r.value, theirs)
  check_decoded(text, kind, true, event, misfits)
  check_decoded(text, nil, true, expected_untyped(whole, r.value, theirs))
  if random then
    check_decoded(texts.written(r.value, kind.order), kind, true, event, misfits)
    check_decoded(texts.written(r.value, {}, random), kind, true, event, misfits)
  end
  return event and "event" or "misfit"
end

--- Read the text by all, as an event of that kind. "event"; "misfit", an object that is no such
-- event; "JSON", no object; "not JSON". random: a generator, to write an object once as the bus
-- would and once at whim, and decode these as well. An error with all results if they disagree.
function readers.check(text, kind, random, note)
  local ok, result = pcall(check, text, kind, random)
  if ok then return result end
  local fields = {}
  for i, field in ipairs(kind.fields) do fields[i] = ("%q %s"):format(field[1], field[2]) end
  error(("%s%s\ntext: %q\nfields: %s"):format(note or "", tostring(result), text,
    table.concat(fields, ", ")), 0)
end

return readers
