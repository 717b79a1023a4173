--- Programs run by specs: input, output, signals, and an end with a limit. Nothing here sleeps: all
-- waiting is poll(2) on the pipes and on the process itself.
local ffi = require "ffi"

ffi.cdef [[
typedef struct { int fd; short events; short revents; } spec_pollfd;
int pipe2(int ends[2], int flags);
int poll(spec_pollfd *fds, unsigned long count, int timeout_ms);
long read(int fd, void *buffer, size_t size);
long write(int fd, const void *buffer, size_t size);
int close(int fd);
int kill(int pid, int number);
int waitpid(int pid, int *status, int options);
long syscall(long number, ...);
long sysconf(int name);
int fcntl(int fd, int command, ...);
int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                 const char *const argv[], const char *const envp[]);
int posix_spawn_file_actions_init(void *actions);
int posix_spawn_file_actions_adddup2(void *actions, int from, int to);
int posix_spawn_file_actions_addclosefrom_np(void *actions, int from);
int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, int mode);
int posix_spawn_file_actions_destroy(void *actions);
int posix_spawnattr_init(void *attributes);
int posix_spawnattr_setflags(void *attributes, short flags);
int posix_spawnattr_setsigdefault(void *attributes, const void *signals);
int posix_spawnattr_destroy(void *attributes);
int sigfillset(void *signals);
int posix_openpt(int flags);
int grantpt(int fd);
int unlockpt(int fd);
char *ptsname(int fd);
typedef struct { long seconds, nanoseconds; } spec_time;
int clock_gettime(int clock, spec_time *now);
extern char **environ;
void (*signal(int number, void (*handler)(int)))(int);
]]

local C = ffi.C
local O_CLOEXEC, O_NONBLOCK, F_SETFL = 0x80000, 0x800, 4
local O_RDWR, O_NOCTTY, SETSIGDEF, SETSID = 2, 0x100, 0x04, 0x80
local EIO = 5
local PIDFD_OPEN, WNOHANG, EPIPE, SIGPIPE, SC_CLK_TCK = 434, 1, 32, 13, 2
local POLLIN, POLLOUT = 1, 4
local SECONDS = 90 -- a program may be slow where much else runs

local process = {
  SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGKILL = 9, SIGTERM = 15, SIGCONT = 18, SIGSTOP = 19,
}

local started = {} -- pid -> Process

local Process = {}
Process.__index = Process

C.signal(SIGPIPE, ffi.cast("void (*)(int)", 1)) -- a program that ends early must not end the spec

function process.now()
  local now = ffi.new "spec_time"
  C.clock_gettime(1, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

-- ---- starting ----

local function pipe()
  local ends = ffi.new "int[2]"
  assert(C.pipe2(ends, O_CLOEXEC) == 0, "pipe2 failed")
  return ends[0], ends[1]
end

local function strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for i, text in ipairs(list) do array[i - 1] = text end
  array[#list] = nil
  return array
end

-- The specs' environment without options of moonbus, and what is given.
local function environment(more)
  local list = {}
  local i = 0
  while C.environ[i] ~= nil do
    local pair = ffi.string(C.environ[i])
    local name = pair:match "^([^=]*)"
    if not name:find "^MOONBUS_" and not (more and more[name]) then list[#list + 1] = pair end
    i = i + 1
  end
  for name, value in pairs(more or {}) do list[#list + 1] = name .. "=" .. value end
  return list
end

-- As much of the input as the pipe takes now; its end once all is in.
local function feed(self)
  if self.input and self.to_write ~= "" then
    local wrote = tonumber(C.write(self.input, self.to_write, #self.to_write))
    if wrote > 0 then self.to_write = self.to_write:sub(wrote + 1)
    elseif ffi.errno() == EPIPE then return self:close_input() end
  end
  if self.to_write == "" and not self.keep_open then self:close_input() end
end

-- Signals do what they do by default, whatever the caller of the specs ignores. In a session of its
-- own, the first terminal that it opens is the one whose end it is told of.
local function spawn(argv, actions, options)
  local pid, attributes, signals = ffi.new "int[1]", ffi.new "char[512]", ffi.new "char[256]"
  C.sigfillset(signals)
  C.posix_spawnattr_init(attributes)
  C.posix_spawnattr_setsigdefault(attributes, signals)
  C.posix_spawnattr_setflags(attributes, SETSIGDEF + (options.terminal and SETSID or 0))
  C.posix_spawn_file_actions_addclosefrom_np(actions, 3)
  local failed = C.posix_spawnp(pid, argv[1], actions, attributes, strings(argv),
    strings(environment(options.env)))
  C.posix_spawnattr_destroy(attributes)
  C.posix_spawn_file_actions_destroy(actions)
  assert(failed == 0, "cannot start " .. argv[1])
  return pid[0]
end

-- The program's pid, and our ends: of its input, and of its streams by name.
local function spawn_on_pipes(argv, actions, options)
  local in_read, in_write = pipe()
  local out_read, out_write = pipe()
  local err_read, err_write = pipe()
  C.posix_spawn_file_actions_adddup2(actions, in_read, 0)
  C.posix_spawn_file_actions_adddup2(actions, out_write, 1)
  C.posix_spawn_file_actions_adddup2(actions, err_write, 2)
  local pid = spawn(argv, actions, options)
  for _, fd in ipairs { in_read, out_write, err_write } do C.close(fd) end
  return pid, in_write, { stdout = out_read, stderr = err_read }
end

local function spawn_on_terminal(argv, actions, options)
  local fd = C.posix_openpt(O_RDWR + O_NOCTTY + O_CLOEXEC)
  assert(fd >= 0 and C.grantpt(fd) == 0 and C.unlockpt(fd) == 0, "no pseudo-terminal")
  C.posix_spawn_file_actions_addopen(actions, 0, C.ptsname(fd), O_RDWR, 0)
  C.posix_spawn_file_actions_adddup2(actions, 0, 1)
  C.posix_spawn_file_actions_adddup2(actions, 0, 2)
  return spawn(argv, actions, options), nil, { stdout = fd }
end

--- Start a program. options: env (a table), input (text; its end is closed unless keep_open),
-- terminal (true: its streams are a terminal of its own, and what it writes there is in stdout).
function process.start(argv, options)
  options = options or {}
  local actions = ffi.new "char[512]"
  C.posix_spawn_file_actions_init(actions)
  local pid, input, streams =
    (options.terminal and spawn_on_terminal or spawn_on_pipes)(argv, actions, options)
  if input then C.fcntl(input, F_SETFL, ffi.cast("int", O_NONBLOCK)) end
  for _, fd in pairs(streams) do C.fcntl(fd, F_SETFL, ffi.cast("int", O_NONBLOCK)) end
  local self = setmetatable({
    pid = pid, pidfd = tonumber(C.syscall(PIDFD_OPEN, ffi.cast("long", pid),
      ffi.cast("long", 0))),
    input = input, to_write = options.input or "", keep_open = options.keep_open,
    stdout = "", stderr = "", streams = streams,
    name = table.concat(argv, " "),
  }, Process)
  assert(self.pidfd >= 0, "pidfd_open failed")
  started[self.pid] = self
  feed(self)
  return self
end

-- ---- waiting ----

local buffer = ffi.new "char[65536]"

local function drain(self, name)
  while self.streams[name] do
    local got = tonumber(C.read(self.streams[name], buffer, 65536))
    if got > 0 then self[name] = self[name] .. ffi.string(buffer, got)
    elseif got == 0 or ffi.errno() == EIO then -- a terminal that nobody has open any more
      C.close(self.streams[name])
      self.streams[name] = nil
    else return end
  end
end

local function reap(self)
  local status = ffi.new "int[1]"
  if C.waitpid(self.pid, status, WNOHANG) ~= self.pid then return end
  local low = bit.band(status[0], 0x7f)
  if low == 0 then self.code = bit.band(bit.rshift(status[0], 8), 0xff)
  else self.killed_by = low end
  self.ended = true
  for name in pairs { stdout = true, stderr = true } do
    drain(self, name)
    if self.streams[name] then C.close(self.streams[name]) end
  end
  self.streams = {}
  self:close_input()
  C.close(self.pidfd)
  started[self.pid] = nil
end

-- One wait for anything to happen, up to so many seconds.
local function turn(self, seconds)
  local fds, names, count = ffi.new "spec_pollfd[4]", {}, 0
  local function add(fd, events, name)
    fds[count].fd, fds[count].events = fd, events
    names[count] = name
    count = count + 1
  end
  add(self.pidfd, POLLIN, "end")
  for name, fd in pairs(self.streams) do add(fd, POLLIN, name) end
  if self.input and not (self.to_write == "" and self.keep_open) then
    add(self.input, POLLOUT, "input")
  end
  C.poll(fds, count, math.max(0, math.ceil(seconds * 1000)))
  local over = false
  for i = 0, count - 1 do
    if fds[i].revents ~= 0 then
      if names[i] == "end" then over = true
      elseif names[i] == "input" then feed(self)
      else drain(self, names[i]) end
    end
  end
  if over then reap(self) end
end

local function report(self, what)
  error(("%s\n%s\n-- code %s, signal %s, stdout:\n%s\n-- stderr:\n%s"):format(self.name, what,
    tostring(self.code), tostring(self.killed_by), self.stdout, self.stderr), 3)
end

--- Wait until condition(self) is truthy (or, given text, until stdout or stderr contains it), and
-- return what it gave. A failure when the program ends first, or after `seconds`.
function Process:wait_for(condition, seconds)
  local text = type(condition) == "string" and condition
  local test = text and function()
    return self.stdout:find(text, 1, true) or self.stderr:find(text, 1, true)
  end or condition
  local deadline = process.now() + (seconds or SECONDS)
  while true do
    local got = test(self)
    if got then return got end
    if self.ended then report(self, "ended before " .. (text or "the condition held")) end
    local left = deadline - process.now()
    if left <= 0 then report(self, "not seen in time: " .. (text or "a condition")) end
    turn(self, math.min(left, 0.1)) -- a condition may also look at something else than the output
  end
end

--- The numbers of the processes it started.
function Process:children()
  local list = {}
  local file = io.open(("/proc/%d/task/%d/children"):format(self.pid, self.pid))
  local text = file and file:read "*a" or ""
  if file then file:close() end
  for child in text:gmatch "%d+" do list[#list + 1] = tonumber(child) end
  return list
end

-- The process and all it started, as numbers.
local function family(pid, into)
  into[#into + 1] = pid
  for _, child in ipairs(Process.children { pid = pid }) do family(child, into) end
  return into
end

local function kill_family(self)
  for _, pid in ipairs(family(self.pid, {})) do C.kill(pid, process.SIGKILL) end
end

--- Wait for the end. Returns itself: code or killed_by, stdout, stderr.
function Process:wait(seconds)
  local deadline = process.now() + (seconds or SECONDS)
  while not self.ended do
    local left = deadline - process.now()
    if left <= 0 then
      kill_family(self)
      report(self, ("did not end within %g s"):format(seconds or SECONDS))
    end
    turn(self, left)
  end
  return self
end

--- Let time pass while reading what the program writes: for measurements over time only.
function Process:observe(seconds)
  local deadline = process.now() + seconds
  while not self.ended and process.now() < deadline do turn(self, deadline - process.now()) end
end

-- ---- acting on it ----

function Process:signal(number)
  if not self.ended then C.kill(self.pid, number) end
end

--- Ask it to end, and wait. Returns itself.
function Process:stop(number, seconds)
  self:signal(number or process.SIGTERM)
  return self:wait(seconds)
end

--- End it with all it started, as a power cut does. Returns itself.
function Process:cut_off(seconds)
  self:signal(process.SIGSTOP) -- so that it starts no more
  local all = family(self.pid, {})
  for _, pid in ipairs(all) do C.kill(pid, process.SIGKILL) end
  for _, pid in ipairs(all) do assert(process.gone(pid, seconds or SECONDS), "it would not end") end
  return self:wait(seconds)
end

function Process:write(text)
  self.to_write = self.to_write .. text
  feed(self)
end

function Process:close_input()
  if self.input then C.close(self.input) end
  self.input = nil
end

--- Close its terminal, as a window or a lost connection does.
function Process:hang_up()
  C.close(self.streams.stdout)
  self.streams.stdout = nil
end

--- Processor time used so far, in seconds.
function Process:cpu_seconds()
  local file = assert(io.open(("/proc/%d/stat"):format(self.pid)))
  local rest = file:read("*a"):match "^.*%) (.*)$"
  file:close()
  local words = {}
  for word in rest:gmatch "%S+" do words[#words + 1] = word end
  return (tonumber(words[12]) + tonumber(words[13])) / tonumber(C.sysconf(SC_CLK_TCK))
end

--- Whether a process that the spec did not start is gone, or goes within so many seconds.
function process.gone(pid, seconds)
  local fd = tonumber(C.syscall(PIDFD_OPEN, ffi.cast("long", pid), ffi.cast("long", 0)))
  if fd < 0 then return true end
  local fds = ffi.new "spec_pollfd[1]"
  fds[0].fd, fds[0].events = fd, POLLIN
  local ready = C.poll(fds, 1, (seconds or 0) * 1000)
  C.close(fd)
  return ready > 0
end

--- Run a program to its end. options as for start, and timeout in seconds.
function process.run(argv, options)
  return process.start(argv, options):wait(options and options.timeout)
end

--- The program under test with these arguments.
function process.moonbus(...)
  return { assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set") .. "/moonbus", ... }
end

--- Kill and reap whatever a spec left running, with what that started.
function process.clean()
  for _, each in pairs(started) do
    kill_family(each)
    each:wait()
  end
end

return process
