-- Security: the configuration for production. TLS, a login, and secrets from the environment.
--
-- shows   SASL_SSL with SCRAM-SHA-512, ssl_cafile, secrets by MOONBUS_* variables, refused logins
-- run     scripts/kafka up --tls-sasl --dir ../k && luajit examples/tutorial/security.lua
-- prints  logged in as moonbus, one event there and back, and what a wrong password gives

local moonbus = require "moonbus"

local PaymentMade = moonbus.event("PaymentMade", {
  aggregate_type = "Payment",
  amount = "number",
})

-- In production nothing of this is in the script. Each option has an environment variable, and that
-- counts more than the script: MOONBUS_BOOTSTRAP_SERVERS, MOONBUS_SASL_USERNAME,
-- MOONBUS_SASL_PASSWORD, MOONBUS_SSL_CAFILE. What stands here suits the broker that scripts/kafka
-- starts.

local function first_file(...)
  for _, path in ipairs { ... } do
    local file = io.open(path)
    if file then
      file:close()
      return path
    end
  end
end

local config = {
  bootstrap_servers = "localhost:9095",
  topic_prefix = "production",
  consumer_group = "payments",

  security_protocol = "SASL_SSL", -- encrypted, and with a login
  sasl_mechanism = "SCRAM-SHA-512", -- the password itself is never sent
  sasl_username = "moonbus",
  sasl_password = "moonbus-secret",
  -- The authority that vouches for the brokers; without it, those that the system knows.
  ssl_cafile = first_file("../k/tls/ca.crt", "var/kafka/tls/ca.crt"),
}

-- A configuration that cannot work is an error at once, before anything is connected.

local ok, why = pcall(moonbus.bus, { security_protocol = "SASL_SSL" })
print("incomplete: " .. (ok and "taken" or tostring(why):match "[^\n]*"))

local bus = moonbus.bus(config)
print("password: " .. tostring(bus.config.sasl_password)) -- never shown

-- There and back.

local paid
bus:subscribe(PaymentMade, function(event) paid = event.amount end)
assert(bus:connect(30))
print("logged in as " .. bus.config.sasl_username .. " over " .. bus.config.security_protocol)
assert(bus:start_consuming_in_background())
assert(bus:publish(PaymentMade { aggregate_id = moonbus.uuid(), amount = 42 }))
local deadline = moonbus.now() + 60
while not paid and moonbus.now() < deadline do moonbus.sleep(0.05) end
print("received a payment of " .. tostring(paid))
assert(bus:disconnect())

-- What is refused says so, and which option to look at. (A variable for the password would count
-- more than the line below, so the user is another, too.)

config.sasl_username, config.sasl_password = "nobody", "wrong"
config.log_level = "error"
local stranger = moonbus.bus(config)
if stranger.config.sasl_username == "nobody" then
  local _, message, code = stranger:connect(30)
  print(("refused: %s\n  %s"):format(code, message))
end
