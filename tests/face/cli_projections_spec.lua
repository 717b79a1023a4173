-- `moonbus projections` and `moonbus rebuild`: what they say about scripts, flags and brokers that
-- are wrong, and about projections that are behind. tests/face/orders_spec.lua has them going well.
local moonbus = require "moonbus"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"

local SCRIPT = [[
local moonbus = require "moonbus"
local Paid = moonbus.event("Paid", { aggregate_type = "Account", n = "integer" })
local store = moonbus.stores.sqlite { path = os.getenv "DB" }
local bus = moonbus.bus { topic_prefix = "paid", consumer_group = "paid", log_level = "warn",
  max_retries = 0 }
local function init(tx) tx:execute "CREATE TABLE IF NOT EXISTS sums (n INTEGER)" end
bus:subscribe_all(moonbus.projection("sums", { store = store, init = init, handles = {
  [Paid] = function(event, tx)
    if event.n == 3 then error "three" end
    tx:execute("INSERT INTO sums VALUES (?)", event.n)
  end,
} }))
%s
bus:connect()
for n = 1, 5 do bus:publish(Paid { aggregate_id = moonbus.uuid(), n = n }) end
]]

describe("of a script's projections,", function()
  local broker, env, count = nil, nil, 0

  setup(function() broker = support.broker() end)

  before_each(function()
    count = count + 1
    env = { MOONBUS_BOOTSTRAP_SERVERS = broker.address, MOONBUS_TOPIC_PREFIX = "paid" .. count,
            DB = tmp.dir() .. "/model.db" }
  end)

  teardown(function()
    support.close()
    process.clean()
    tmp.clean()
  end)

  local function run(command, text, ...)
    return process.run(process.moonbus(command, tmp.file("script.lua", text), ...),
      { env = env, timeout = 120 })
  end

  local function fails(code, pattern, result)
    assert.equal(code, result.code, result.stdout .. result.stderr)
    assert.matches(pattern, result.stderr)
  end

  local one = SCRIPT:format ""
  local two = SCRIPT:format [[bus:subscribe_all(moonbus.projection("more", { store = store,
    handles = { [Paid] = function() end } }))]]

  local function only_publish() run("run", (one:gsub("bus:subscribe_all", "local _ = "))) end

  it("a script without one is an error, and so is a script that is wrong", function()
    for _, command in ipairs { "projections", "rebuild" } do
      fails(2, "^moonbus: ENOENT: .*script.lua subscribes no projection with a store\n$",
        run(command, "require 'moonbus'.bus {}"))
      fails(3, "^moonbus: ESCRIPT: .*nowhere", run(command, "nowhere.x = 1"))
    end
  end)

  it("the one to rebuild has to be said, and to be there", function()
    only_publish()
    fails(2, "EINVAL: %-%-projection says which of .*: more, sums\n", run("rebuild", two))
    fails(2, 'ENOENT: .* has no projection "x"; it has more, sums\n',
      run("rebuild", two, "--projection", "x"))
    fails(2, "EINVAL: projection more: it has no init; init says which", run("rebuild", two,
      "--projection", "more"))
    fails(2, "EINVAL: projection sums: it has no truncate", run("rebuild", one, "--in-place"))
  end)

  it("and of a broker that is away", function()
    env.MOONBUS_BOOTSTRAP_SERVERS = "127.0.0.1:1"
    fails(4, "^moonbus: ECONNECT: ", run("projections", one))
    fails(4, "^moonbus: ECONNECT: ", run("rebuild", one))
  end)

  it("and of a topic that is not there, which is not made", function()
    for _ = 1, 2 do
      fails(5, '^moonbus: ETOPIC: topic "paid%d+.stream" does not exist', run("rebuild", one))
      fails(5, '^moonbus: ETOPIC: topic "paid%d+.stream" does not exist', run("projections", one))
    end
  end)

  it("and of a database that cannot be opened", function()
    only_publish()
    env.DB = "/nowhere/model.db"
    fails(6, "ESTORE: sqlite /nowhere/model.db: unable to open", run("projections", one))
    fails(6, "ESTORE: .*unable to open", run("rebuild", one))
  end)

  it("prints how far they are behind, and rebuilds all but what fails", function()
    assert.equal(0, run("run", one, "--until-idle", "1").code)
    only_publish()
    local shown = run("projections", one)
    assert.equal(0, shown.code, shown.stderr)
    assert.matches("^projection sums in sqlite .*model.db, topic paid%d+.stream, group paid: "
      .. "5 behind\npartition +position +end +lag\n +0 ", shown.stdout)
    fails(3, "ESCRIPT: paid%d+.stream%[%d%] offset %d+: Paid: .*three; fix .*; the read model is "
      .. "as it was\n$", run("rebuild", one))
    local rebuilt = run("rebuild", one, "--skip-failed", "--json")
    fails(1, "^moonbus: left out: paid.*three\nmoonbus: left out: paid.*three\n$", rebuilt)
    local result = assert(moonbus.json.decode(rebuilt.stdout))
    assert.equal(8, result.applied)
    assert.equal(2, #result.skipped)
    assert.is_false(result.stopped)
    assert.equal(0, assert(moonbus.json.decode(run("projections", one, "--json").stdout)).lag)
  end)

  it("and of one whose data are gone, though its group has read everything", function()
    assert.equal(0, run("run", one, "--until-idle", "1").code)
    os.remove(env.DB)
    assert.matches(": 5 behind\n.*\n +%d +%- ", run("projections", one).stdout)
  end)
end)
