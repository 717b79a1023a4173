--- What the specs of logins share: options for each listener of a broker with TLS and SASL, and
-- what a bus that is let in, or is not, does.
local assert = require "luassert"
local kafka = require "tests.support.kafka"
local moonbus = require "moonbus"

local security = {}

local registry = moonbus.new_registry()
local Ticked = moonbus.event("Ticked", { aggregate_type = "Clock", number = "integer" },
  { registry = registry })
security.registry, security.Ticked = registry, Ticked

local OFFSETS = { PLAINTEXT = 0, SSL = 2, SASL_SSL = 3, SASL_PLAINTEXT = 4 } -- of their ports

local SECRETS = { "open-sesame", "moonbus-secret", "reader-secret", "client-secret",
  "another-secret" }

function security.at(broker, protocol)
  return "localhost:" .. broker.port + OFFSETS[protocol]
end

--- A file that the broker's directory has for clients: ca.crt, client.crt, client.key, token.key.
function security.file(broker, name)
  return broker.dir .. "/kafka/tls/" .. name
end

--- Options to reach that listener; more: others, which count more.
function security.options(broker, protocol, more)
  local options = {
    bootstrap_servers = security.at(broker, protocol), security_protocol = protocol,
    event_registry = registry, topic_prefix = kafka.name "login", shutdown_timeout = 3,
    ssl_cafile = protocol:find "SSL$" and security.file(broker, "ca.crt") or nil,
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

--- A login by password.
function security.login(mechanism, more)
  local options = { sasl_mechanism = mechanism, sasl_username = "moonbus",
    sasl_password = "moonbus-secret" }
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

function security.ticks(n)
  local events = {}
  for i = 1, n do events[i] = Ticked { aggregate_id = moonbus.uuid(), number = i } end
  return events
end

--- Count what is handled, by number.
function security.count(bus)
  local handled = {}
  bus:subscribe(Ticked, function(event)
    handled[event.number] = (handled[event.number] or 0) + 1
  end)
  return handled
end

local function all(handled, n)
  for i = 1, n do
    if not handled[i] then return false end
  end
  return true
end

--- A bus with those options connects, publishes, consumes, and writes and reads a dead letter.
function security.works(options)
  options.max_retries = 0
  local bus = kafka.bus(options)
  local handled = security.count(bus)
  bus:subscribe(Ticked, function(event)
    if event.number == 3 then error "refused" end
  end)
  local err
  kafka.wait(function() return "the dead letter topic: " .. err end, function()
    local task, why = bus:start_consuming_in_background()
    err = why
    return task
  end)
  kafka.wait("the assignment", function() return kafka.stats(bus, "assigned_count") == 4 end)
  assert(bus:publish(security.ticks(20)))
  kafka.wait("the events", function()
    return all(handled, 20) and kafka.stats(bus, "messages_sent_to_dlq") == 1
  end)
  assert.are.equal(1, #assert(bus:get_dlq_messages()))
  assert(bus:disconnect())
end

--- What a failed connect says: the error's text, and its code. No secret is in it, or in the log.
function security.refused(options, timeout)
  local bus = kafka.new_bus(options)
  local ok, err, code = bus:connect(timeout or 90)
  assert.is_nil(ok)
  assert.is_false(bus:is_connected())
  for _, line in ipairs { err, unpack(bus.lines) } do
    for _, secret in ipairs(SECRETS) do
      assert.is_nil(line:find(secret, 1, true), line)
    end
  end
  return err, code
end

--- The text has every piece in it, as it stands.
function security.says(text, ...)
  for _, piece in ipairs { ... } do
    assert(text:find(piece, 1, true), ("%q is missing in:\n%s"):format(piece, text))
  end
end

--- Connecting is refused with EAUTH, at that listener, and the error has all of that in it.
function security.denied(options, ...)
  local err, code = security.refused(options)
  assert.are.equal("EAUTH", code, err)
  security.says(err, options.bootstrap_servers, ...)
end

-- ---- certificates ----

local EC = { "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes" }

local function openssl(...)
  kafka.run { "openssl", ... }
end

--- An authority of its own. Returns its directory, with ca.crt and ca.key.
function security.authority()
  local dir = kafka.temp_dir()
  openssl("req", "-x509", EC[1], EC[2], EC[3], EC[4], EC[5], "-days", "2", "-subj", "/CN=another",
    "-keyout", dir .. "/ca.key", "-out", dir .. "/ca.crt")
  return dir
end

--- A certificate for `names` ("DNS:localhost"), valid for so many days from now, by the authority
-- in that directory. Returns the path of key and certificate, in one file, and each by itself.
function security.certificate(authority, into, names, days)
  local stem = into .. "/" .. kafka.name "certificate"
  kafka.write_file(stem .. ".ext", "subjectAltName=" .. names .. "\n")
  openssl("req", EC[1], EC[2], EC[3], EC[4], EC[5], "-subj", "/CN=spec", "-keyout", stem .. ".key",
    "-out", stem .. ".csr")
  openssl("x509", "-req", "-in", stem .. ".csr", "-CA", authority .. "/ca.crt", "-CAkey",
    authority .. "/ca.key", "-CAcreateserial", "-days", tostring(days), "-extfile",
    stem .. ".ext", "-out", stem .. ".crt")
  kafka.write_file(stem .. ".pem", kafka.read_file(stem .. ".key")
    .. kafka.read_file(stem .. ".crt"))
  return stem .. ".pem", stem .. ".crt", stem .. ".key"
end

return security
