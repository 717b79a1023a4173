--- What specs of handlers with a database share: a directory, a PostgreSQL, buses that are made
-- once, as a group takes three seconds to join, and stores that are closed after each test.
local busted = require "busted"
local postgres = require "tests.support.postgres"
local process = require "tests.support.process"
local support = require "tests.support.bus"
local tmp = require "tests.support.tmp"

local stores = {}

--- For a whole file. open() makes the buses and returns them. What comes back has `dir` and
-- `server` while tests run, and keep(store), which returns the store.
function stores.share(open)
  local shared, kept, buses = {}, {}, {}
  busted.setup(function()
    shared.dir, shared.server = tmp.dir(), postgres.start()
    buses = { open() }
  end)
  busted.after_each(function()
    for _, bus in ipairs(buses) do bus:clear_subscribers() end
    for _, store in ipairs(kept) do store:close() end
    kept = {}
  end)
  busted.teardown(function()
    support.close()
    if shared.server then shared.server:down() end
    process.clean()
    tmp.clean()
  end)
  function shared.keep(store)
    kept[#kept + 1] = store
    return store
  end
  return shared
end

return stores
