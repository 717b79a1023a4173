-- What moonbus uses of Lua is its own: no module reads or writes a script's globals.
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"
local bytecode = require "jit.bc"
local util = require "jit.util"

local function modules()
  local pipe = assert(io.popen "find lua/moonbus -name '*.lua' | sort")
  local list = {}
  for path in pipe:lines() do
    if not path:find "/meta%.lua$" then list[#list + 1] = path end
  end
  pipe:close()
  return list
end

-- Calls see(instruction, name, function is the whole file) for each access of a global.
local function each_global(fn, see, inner)
  local info = util.funcinfo(fn)
  for pc = 1, info.bytecodes - 1 do
    local what, name = bytecode.line(fn, pc):match '%s(G[GS]ET)%s.-"(.-)"'
    if what then see(what, name, not inner) end
  end
  for i = -1, -info.gcconsts, -1 do
    local constant = util.funck(fn, i)
    if type(constant) == "proto" then each_global(constant, see, true) end
  end
end

local function globals_of(chunk)
  local found = {}
  each_global(chunk, function(what, name, at_head)
    if what ~= "GGET" or name ~= "require" or not at_head then
      found[#found + 1] = ("%s %s"):format(what, name)
    end
  end)
  return found
end

describe("a module of moonbus", function()
  for _, path in ipairs(modules()) do
    it("uses no global but require, at its head: " .. path, function()
      assert.same({}, globals_of(assert(loadfile(path))))
    end)
  end

  it("would be found out", function()
    assert.same({ "GGET print" }, globals_of(assert(loadstring "print(1)")))
    assert.same({ "GSET x" }, globals_of(assert(loadstring "return function() x = 1 end")))
    assert.same({ "GGET require" }, globals_of(assert(loadstring
      "return function() return function() return require 'x' end end")))
  end)
end)

-- Everything a script can reach, after it assigned each name that a `local` was forgotten for.
local SCRIPT = [[
%s
local out, path = io.stdout, %q
local function check(value, err) if not value then out:write("failed: ", err or "?", "\n") end end
local moonbus = require "moonbus"
%s
local Placed = moonbus.event("Placed", { total = "number?", items = "string[]",
  note = { type = "object", default = {} }, aggregate_type = "Order", event_version = 2,
  upcast = { [1] = function(data) return data end } })
local store = moonbus.stores.sqlite { path = path }
local bus = moonbus.bus { bootstrap_servers = "embedded", topic_prefix = "globals",
  consumer_group = "globals", session_timeout_ms = 6000, heartbeat_interval_ms = 500,
  fetch_wait_max_ms = 10, max_retries = 1, retry_base_delay = 0.01 }
local model = moonbus.projection("totals", { store = store,
  init = function(tx) tx:execute "CREATE TABLE IF NOT EXISTS totals (n REAL)" end,
  handles = { [Placed] = function(event, tx)
    tx:execute("INSERT INTO totals VALUES (?)", event.total)
  end } })
local handled, dead = 0, 0
bus:subscribe_all(model)
bus:subscribe(Placed, moonbus.idempotent(function(event) handled = handled + 1 end,
  { store = moonbus.stores.memory(), name = "memory" }))
bus:subscribe(Placed, function(event)
  if event.total == 2 then moonbus.dead "two" end
end, { name = "dead" })
check(bus:connect())
for i = 1, 2 do
  check(bus:publish(Placed { aggregate_id = moonbus.uuid(), total = i, items = { "a" } }))
end
check(bus:start_consuming { until_idle = 0.2, for_seconds = 60 })
local letters = bus:get_dlq_messages()
local rebuilt, why = bus:rebuild(model)
check(rebuilt, why)
local replayed = bus:replay_dlq()
out:write("handled ", handled, ", letters ", #letters, ", replayed ", replayed.replayed, ", rows ",
  store:transaction(function(tx) return tx:one("SELECT count(*) n FROM totals").n end), "\n")
out:write(moonbus.json.encode { b = 1, a = { moonbus.null } }, moonbus.timestamp(0), "\n")
bus:get_metrics() bus:get_health() moonbus.features() moonbus.options()
bus:disconnect()
out:write "done\n"
]]

local FORGOTTEN = [[
local globals = _G
for _, name in ipairs {
  "assert", "collectgarbage", "error", "getmetatable", "ipairs", "loadfile", "loadstring", "next",
  "pairs", "pcall", "print", "rawequal", "rawget", "rawset", "require", "select", "setmetatable",
  "tonumber", "tostring", "type", "unpack", "xpcall", "bit", "coroutine", "debug", "io", "jit",
  "math", "os", "string", "table", "_G", "package",
} do
  %s
end
]]

local DONE = 'handled 2, letters 1, replayed 1, rows 2\n'
  .. '{"a":[null],"b":1}1970-01-01T00:00:00Z\ndone\n'

describe("a script that forgot a local", function()
  teardown(tmp.clean)

  local function run(command, before, after)
    local path = tmp.file("forgot.lua",
      SCRIPT:format(before, tmp.dir() .. "/globals.db", after))
    command[#command + 1] = path
    return process.run(command)
  end

  for what, assigned in pairs {
    ["a text"] = "globals[name] = 'mine'", ["nothing"] = "globals[name] = nil",
    ["a function"] = "globals[name] = function() return 7 end",
    ["a table"] = "globals[name] = {}",
  } do
    local after = FORGOTTEN:format(assigned)
    it("and assigned " .. what .. " changes nothing in the module", function()
      local result = run({ "luajit" }, "", after)
      assert.equal(DONE, result.stdout, result.stderr)
    end)

    it("and assigned " .. what .. " changes nothing in the program", function()
      local result = run(process.moonbus "run", "", after)
      assert.equal(DONE, result.stdout, result.stderr)
      assert.equal(0, result.code)
    end)
  end

  it("before the program's script loads moonbus, changes nothing either", function()
    local result = run(process.moonbus "run",
      "type, table, setmetatable, error, string = 'order', {}, 1, nil, nil", "")
    assert.equal(DONE, result.stdout, result.stderr)
  end)

  it("before it loads the module, is an error that names it", function()
    for name, value in pairs { type = "'order'", table = "1", error = "nil", string = "7" } do
      local result = process.run { "luajit", "-e", ("%s = %s; print(pcall(require, 'moonbus'))")
        :format(name, value) }
      local text = result.stdout .. result.stderr
      assert.matches(('the global "%s" is a %%a+: a script assigned it'):format(name), text)
      assert.matches('put "local" in front', text)
    end
  end)

  it("gets the traceback of its own error all the same", function()
    local path = tmp.file("raises.lua", "local raise = error\ndebug, error, tostring = nil\n"
      .. "local function inner() raise 'oh' end\ninner()\n")
    local result = process.run(process.moonbus("run", path))
    assert.equal(3, result.code)
    assert.matches("raises.lua:3: oh", result.stderr)
    assert.matches("in function 'inner'", result.stderr)
  end)
end)
