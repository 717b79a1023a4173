--- A PostgreSQL server for specs, from Debian's packages: in a folder of its own, on a Unix socket,
-- as another user when the specs run as root, and gone with the process that started it.
local ffi = require "ffi"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

ffi.cdef "unsigned geteuid(void);"

local postgres = {}

local Server = {}
Server.__index = Server

local SECONDS = 120
local USER, GROUP = "nobody", "nogroup" -- instead of root, as whom PostgreSQL does not run

local function programs()
  local pipe = io.popen "ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1"
  local dir = pipe:read "*l"
  pipe:close()
  return assert(dir, "PostgreSQL is not in /usr/lib/postgresql: scripts/setup installs it")
end

-- What is preloaded into the specs, a sanitizer say, is not for these programs.
local function clean(words)
  return { "env", "-u", "LD_PRELOAD", unpack(words) }
end

local function run(...)
  local done = process.run(clean { ... }, { timeout = SECONDS })
  assert(done.code == 0, ("%s: %s%s"):format((...), done.stdout, done.stderr))
  return done.stdout
end

-- The words that run a program as the user of the server.
local function as_user(self, ...)
  local words = { unpack(self.within) }
  for _, word in ipairs { "setpriv", "--pdeathsig", "INT" } do words[#words + 1] = word end
  if self.root then
    for _, word in ipairs { "--reuid", USER, "--regid", GROUP, "--clear-groups" } do
      words[#words + 1] = word
    end
  end
  for _, word in ipairs { ... } do words[#words + 1] = word end
  return words
end

--- Start a server on a new cluster. server.dsn is what a store takes. options: within, words to run
-- its programs with; data, an empty folder there for its files.
function postgres.start(options)
  local self = setmetatable({ bin = programs(), dir = tmp.dir(), root = ffi.C.geteuid() == 0,
    within = options and options.within or {} }, Server)
  if self.root then run("chown", USER, self.dir) end
  self.data = options and options.data or self.dir .. "/data"
  run(unpack(as_user(self, self.bin .. "/initdb", "--no-sync", "-A", "trust", "-U", "moonbus",
    "-E", "UTF8", "--locale", "C", "-D", self.data)))
  self.dsn = ("host=%s user=moonbus dbname=postgres"):format(self.dir)
  self:up()
  return self
end

--- Start it (again), and wait until it takes connections. It logs little: nobody reads its pipe
-- meanwhile, and once that is full it would stand still.
function Server:up()
  self.process = process.start(clean(as_user(self, self.bin .. "/postgres", "-D", self.data, "-k",
    self.dir, "-c", "listen_addresses=", "-c", "log_min_messages=fatal")))
  self.process:wait_for(function()
    return process.run(clean { self.bin .. "/pg_isready", "-q", "-h", self.dir }).code == 0
  end, SECONDS)
end

--- Stop it, with its connections; with "KILL" as a power cut does: the processes that serve clients
-- would outlive the first one for a moment, and go on doing so.
function Server:down(signal)
  if signal == "KILL" then self.process:cut_off(SECONDS)
  else self.process:stop(process.SIGINT, SECONDS) end
end

local function psql(self, text)
  return { self.bin .. "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.dir,
    "-U", "moonbus", "-d", "postgres", "-c", text }
end

--- Run SQL outside any store; its output, a line per row, `|` between columns.
function Server:sql(text)
  return (run(unpack(psql(self, text))):gsub("%s+$", ""))
end

--- The same without waiting for its end: the process.
function Server:sql_later(text) return process.start(clean(psql(self, text))) end

--- End every connection but the one that asks, as a server does that is restarted.
function Server:cut()
  self:sql [[SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend']]
end

return postgres
