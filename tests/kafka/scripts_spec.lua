-- scripts/kafka as a user types it: what an existing directory keeps, and what a broker and the
-- other background processes of scripts do not keep of their caller.
local kafka = require "tests.support.kafka"
local process = require "tests.support.process"

local SCRIPTS = kafka.source .. "/scripts/"
local SECONDS = 240

local function words(text)
  local list = {}
  for word in text:gmatch "%S+" do list[#list + 1] = word end
  return list
end

kafka.describe("scripts", function()
  local dir, brokers

  before_each(function()
    dir, brokers = kafka.temp_dir(), {}
  end)

  local function ctl(name, line)
    local path = dir .. "/" .. name
    brokers[path] = true
    local argv = words(line)
    table.insert(argv, 1, SCRIPTS .. "kafka")
    argv[#argv + 1], argv[#argv + 2] = "--dir", path
    return process.run(argv, { timeout = SECONDS })
  end

  after_each(function()
    for path in pairs(brokers) do
      process.run({ SCRIPTS .. "kafka", "wipe", "--kill", "--dir", path }, { timeout = SECONDS })
    end
    process.clean()
  end)

  local function fine(run)
    assert.equal(0, run.code, run.stderr)
    return run.stdout
  end

  local function up(name, line)
    return fine(ctl(name, "up " .. line)):match "^localhost:(%d+)\n$"
  end

  local function listeners(name)
    local file = kafka.read_file(dir .. "/" .. name .. "/server.properties")
    return file:match "\nlisteners=([^\n]*)"
  end

  -- Something else that listens on that port.
  local function occupy(port)
    process.start({ "python3", "-uc", [[
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening")
sys.stdin.read()]], port }, { keep_open = true }):wait_for "listening"
  end

  it("kafka up in a directory of before takes its ports and listeners", function()
    local port = up("one", "--port free") -- the next four are its own, too
    local controller = port + 4
    fine(ctl("one", ("restart --port %s --controller-port %d"):format(port, controller)))
    local before = listeners "one"
    assert.matches("CONTROLLER://127%.0%.0%.1:" .. controller, before)
    local second = up("two", "--port free --join " .. dir .. "/one")
    local joined = listeners "two"
    fine(ctl("two", "down"))
    fine(ctl("one", "down"))
    assert.equal(port, up("one", ""))
    assert.equal(before, listeners "one")
    assert.equal(second, up("two", "--join " .. dir .. "/one"))
    assert.equal(joined, listeners "two")
    fine(ctl("two", "down"))
    fine(ctl("one", "down"))

    occupy(port)
    local refused = ctl("one", "up")
    assert.equal(1, refused.code)
    assert(refused.stderr:find(("kafka: port %s, which %s/one had before, is in use by another "
      .. "program; stop that, or choose another with --port"):format(port, dir), 1, true),
      refused.stderr)
    local other = up("one", "--port free --tls-sasl")
    assert.are_not.equal(port, other)
    local moved = listeners "one"
    assert.matches("CONTROLLER://127%.0%.0%.1:" .. other + 1, moved)
    assert.matches("SASL_SSL://127%.0%.0%.1:" .. other + 3, moved)
    fine(ctl("one", "down"))
    assert.equal(other, up("one", ""))
    assert.equal(moved, listeners "one")
  end)

  -- A lock and a pipe of the caller's, which ends although what the caller started goes on.
  local HOLD = [[
    exec 9>"$1/lock" 12>&9
    flock 9
    { eval "$2" >"$1/out" 2>&1; } 3>&1 14>&1 | cat]]

  local function hold(line)
    fine(process.run({ "bash", "-euc", HOLD, "hold", dir, line }, { timeout = SECONDS }))
    fine(process.run { "flock", "-n", dir .. "/lock", "true" })
    return kafka.read_file(dir .. "/out")
  end

  it("kafka up leaves the caller its descriptors", function()
    brokers[dir .. "/one"] = true
    local out = hold(("%skafka up --port free --dir %s/one"):format(SCRIPTS, dir))
    assert.matches("^localhost:%d+\n$", out)
    assert.matches("^up at ", fine(ctl("one", "status")))
  end)

  it("guard run leaves the caller its descriptors", function()
    local pid = tonumber(hold(SCRIPTS .. "guard run sleep 600 & echo $!"))
    assert.is_false(process.gone(pid))
    fine(process.run { "kill", tostring(pid) })
    assert.is_true(process.gone(pid, 60))
  end)

  it("start whatever goes on beside them by guard run", function()
    local count = 0
    local find = { "find", SCRIPTS, "-type", "f" }
    for _, name in ipairs(words(fine(process.run(find)))) do
      local file = io.open(name)
      local text = file:read "*a"
      if text and (text:find "^#![^\n]*bash" or name:find "%.bash$") then
        local _, background = text:gsub("[^&] &\n", "")
        local _, guarded = text:gsub('/scripts/guard" run ', "")
        assert.equal(background, guarded, name)
        count = count + background
      end
      file:close()
    end
    -- kafka; test, chaos, bench and check.d/fresh: what they run, and its watch
    assert.is_true(count >= 9, count)
  end)
end)
