-- A broker whose disk is full: on a broker of the spec's own, its data on a small file system in a
-- mount namespace of its own: root may make one, others where the kernel allows user namespaces.
local ffi = require "ffi"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"
local process = require "tests.support.process"

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer",
  filler = "string" }, { registry = registry })

ffi.cdef "unsigned geteuid(void);"

-- In a chroot the kernel refuses user namespaces, and the root of a mount namespace is not ours.
local is_root = ffi.C.geteuid() == 0
local UNSHARE = is_root and "-m" or "-Urm"
local ENTER = is_root and { "-m", "-r", "-w" } or { "-U", "-m", "--preserve-credentials" }

-- Holds the namespaces and the file system; "mounted" once it is there.
local HOLD = [[mount -t tmpfs -o size=%dm moonbus "%s" && echo mounted && exec cat]]

local function hold(dir, mbytes)
  local holder = process.start({ "unshare", UNSHARE, "sh", "-c", HOLD:format(mbytes, dir) },
    { keep_open = true })
  while not holder.ended and not holder.stdout:find "mounted" do holder:observe(0.1) end
  return not holder.ended and holder, holder.stderr
end

kafka.describe("a broker whose disk is full", function()
  after_each(function()
    kafka.wipe_brokers()
    process.clean()
  end)

  it("refuses events with an error, and loses none that it acknowledged", function()
    local dir = kafka.temp_dir()
    local holder, why = hold(dir, 96)
    if not holder then
      assert(not os.getenv "CI", why)
      io.stderr:write("\n*** NOT TESTED: a full disk needs a file system of its own: " .. why)
      return pending("needs user namespaces")
    end
    local inside = { "nsenter", "-t", tostring(holder.pid) }
    for _, word in ipairs(ENTER) do inside[#inside + 1] = word end
    inside[#inside + 1] = "env"
    inside[#inside + 1] = "TMPDIR=" .. dir
    local function within(...)
      local words = { unpack(inside) }
      for _, word in ipairs { ... } do words[#words + 1] = word end
      return kafka.run(words)
    end
    local broker = kafka.broker { within = inside, dir = dir }
    local prefix = kafka.name("full")
    local options = { event_registry = registry, bootstrap_servers = broker.address,
      topic_prefix = prefix, consumer_group = prefix, delivery_timeout_ms = 10000,
      reconnect_backoff_ms = 100, reconnect_backoff_max_ms = 500, compression_type = "none" }
    local publisher, consumer = kafka.bus(options), kafka.bus(options)
    local handled, acked, number = {}, {}, 0
    consumer:subscribe(Ticked, function(event) handled[event.number] = true end)
    kafka.consume(consumer)
    local filler = ("x"):rep(10000)
    -- Whether all of it was acknowledged, or why not.
    local function publish(n)
      local events, failed = {}, {}
      for i = 1, n do
        events[i] = Ticked { aggregate_id = moonbus.uuid(), number = number + i, filler = filler }
      end
      local receipt, err, code, failures = publisher:publish(events)
      for _, failure in ipairs(failures or {}) do failed[failure.index] = true end
      for i = 1, n do
        if not failed[i] then acked[#acked + 1] = number + i end
      end
      number = number + n
      return receipt, err, code
    end
    local function all_handled()
      for _, n in ipairs(acked) do
        if not handled[n] then return false end
      end
      return true
    end

    assert(publish(100))
    kafka.wait("the first events", all_handled)
    -- Fill it, but for what some events take.
    within("sh", "-c", ("head -c $(( ($(df --output=avail -k %s | tail -1) - 4000) * 1024 )) "
      .. "/dev/zero >%s/ballast"):format(dir, dir))
    local ok, err, code
    kafka.wait("the disk to be full", function()
      ok, err, code = publish(50)
      return not ok
    end, 120)
    assert.are.equal("EDELIVERY", code)
    assert.is_truthy(err:find("events not delivered", 1, true), err)
    assert.is_true(kafka.stats(publisher, "publish_errors") > 0)
    assert.are.equal(#acked, kafka.stats(publisher, "events_published"))

    within("rm", dir .. "/ballast")
    broker:down(true)
    broker:up()
    kafka.wait("publish to work again", function() return publish(10) end)
    assert(publish(100))
    kafka.wait(function()
      return "what was acknowledged; " .. table.concat(consumer.lines, "\n")
    end, all_handled)
    assert.is_true(consumer:is_consuming())
  end)
end)
