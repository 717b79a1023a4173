-- The example application: in a copy of its folder, with the commands that its first lines name.
local moonbus = require "moonbus"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local SECONDS = 120

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

-- A comment at the top of a file: what follows that word, and its further lines.
local function comment(text, word)
  local lines = {}
  local on = false
  for line in text:gmatch "([^\n]*)\n" do
    local first = line:match("^%-%- " .. word .. "%s+(.*)$")
    local rest = line:match "^%-%-         ?(.*)$"
    if first then on = true
    elseif not rest then on = false end
    if on then lines[#lines + 1] = first or rest end
  end
  return table.concat(lines, "\n")
end

describe("examples/orders", function()
  local dir, app

  setup(function()
    dir = tmp.dir()
    process.run { "sh", "-c", ("mkdir '%s/examples' && cp -r '%s/examples/orders' '%s/examples' && "
      .. "rm -rf '%s/examples/orders/var'"):format(dir, source, dir, dir) }
    app = read(dir .. "/examples/orders/app.lua")
  end)

  teardown(function()
    support.close()
    process.clean()
    tmp.clean()
  end)

  local function sh(command, env)
    local run = process.run({ "sh", "-c", ("cd '%s' && PATH=%s:$PATH && %s"):format(dir, build,
      command) }, { env = env, timeout = SECONDS })
    assert.equal(0, run.code, run.stdout .. run.stderr)
    return run.stdout, run.stderr
  end

  local function query(text, db)
    return (sh(("sqlite3 '%s' \"%s\""):format(db or "examples/orders/var/orders.db", text)))
  end

  it("prints the rows it promises, however often it runs", function()
    local command = comment(app, "run"):match "^(.-group by 1')":gsub("\n", " && ", 1)
    assert.matches("^moonbus run examples/orders/app.lua %-%-embedded %-%-until%-idle 3 && "
      .. "sqlite3 examples/orders/var/orders.db ", command)
    local promised = comment(app, "prints"):match "sqlite3 prints (.*)$":gsub(", ", "\n") .. "\n"
    for _ = 1, 2 do
      local printed, warnings = sh(command)
      assert.equal(promised, printed)
      assert.equal("", warnings)
    end
    assert.equal("4\n", query "select count(*) from invoices")
  end)

  it("is rebuilt and reported by the program", function()
    local broker = support.broker()
    local env = { MOONBUS_BOOTSTRAP_SERVERS = broker.address, ORDERS_DB = dir .. "/other.db" }
    sh("moonbus run examples/orders/app.lua --until-idle 2", env)
    local rows = query("select * from orders order by 1", env.ORDERS_DB)
    query("update orders set total = 0", env.ORDERS_DB)
    assert.matches("^rebuilt orders: 12 events in .* s\n$",
      (sh("moonbus rebuild examples/orders/app.lua --projection orders", env)))
    assert.equal(rows, query("select * from orders order by 1", env.ORDERS_DB))
    local text = sh("moonbus projections examples/orders/app.lua", env)
    assert.matches("^projection orders in sqlite .*, topic shop.stream, group shop%-orders: "
      .. "0 behind\n", text)
    local one = assert(moonbus.json.decode((sh("moonbus projections examples/orders/app.lua --json",
      env))))
    assert.equal(0, one.lag)
    assert.equal(4, #one.partitions)
    assert.is_false(one.rebuilding)
  end)

  it("shows a rebuild in a script", function()
    local script = read(dir .. "/examples/orders/rebuild.lua")
    assert.equal(comment(script, "prints") .. "\n",
      (sh "moonbus run examples/orders/rebuild.lua --embedded"))
  end)

  it("has specs that pass", function()
    local run = process.run({ "luajit", "/usr/bin/busted", "--output=plainTerminal",
      dir .. "/examples/orders/spec" }, { timeout = SECONDS })
    assert.equal(0, run.code, run.stdout .. run.stderr)
    local text = read(dir .. "/examples/orders/spec/orders_spec.lua")
    assert.matches("\n" .. comment(text, "prints") .. " / 0 failures / 0 errors / 0 pending",
      run.stdout)
  end)
end)
