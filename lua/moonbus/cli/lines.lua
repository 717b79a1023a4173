--- Lines of a file or of stdin: as soon as they are there, in bounded memory, whatever is in them.
-- io.lines() ends a line at a NUL byte, and waits for a full buffer where a pipe is slow.
local base = require "moonbus.base"
local ffi = require "ffi"

local setmetatable, table, tonumber = base.setmetatable, base.table, base.tonumber

ffi.cdef [[
typedef struct { int fd; short events; short revents; } moonbus_pollfd;
int poll(moonbus_pollfd *fds, unsigned long count, int timeout_ms);
long read(int fd, void *buffer, size_t size);
int open(const char *path, int flags, ...);
int close(int fd);
long lseek(int fd, long offset, int whence);
char *strerror(int number);
]]

local lines = {}

local CHUNK = 65536
local LINE_MAX = 64 * 1024 * 1024
local EINTR, O_CLOEXEC = 4, 524288
local SEEK_SET, SEEK_CUR, SEEK_END = 0, 1, 2

local buffer = ffi.new("char[?]", CHUNK)
local pollfd = ffi.new("moonbus_pollfd[1]")

local Reader = {}
Reader.__index = Reader

local function reason()
  return ffi.string(ffi.C.strerror(ffi.errno()))
end

--- Open a file, or stdin for "-". nil and the reason if it cannot be.
function lines.open(path)
  local fd = 0
  if path ~= "-" then
    fd = ffi.C.open(path, O_CLOEXEC)
    if fd < 0 then return nil, reason() end
  end
  local size
  local begin = ffi.C.lseek(fd, 0, SEEK_CUR) -- the caller may have read some of its stdin
  if begin >= 0 then
    size = tonumber(ffi.C.lseek(fd, 0, SEEK_END) - begin)
    ffi.C.lseek(fd, begin, SEEK_SET)
    if size <= 0 then size = nil end
  end
  return setmetatable({
    fd = fd, size = size, bytes = 0, number = 0, pending = {}, length = 0, text = "", at = 1,
    first = true,
  }, Reader)
end

function Reader:close()
  if self.fd > 0 then ffi.C.close(self.fd) end
end

--- Whether more can be read at once; waits for it up to so many milliseconds.
function Reader:ready(timeout_ms)
  if self.ended or self.text:find("\n", self.at, true) then return true end
  pollfd[0].fd, pollfd[0].events, pollfd[0].revents = self.fd, 1, 0
  return ffi.C.poll(pollfd, 1, timeout_ms) > 0
end

-- A piece of the line under way; a line beyond the ceiling is only counted.
local function keep(self, piece)
  self.length = self.length + #piece
  if self.length <= LINE_MAX then self.pending[#self.pending + 1] = piece else self.pending = {} end
end

local function take(self)
  local line, long = table.concat(self.pending), self.length > LINE_MAX
  self.pending, self.length = {}, 0
  self.number = self.number + 1
  if self.first and line:sub(1, 3) == "\239\187\191" then line = line:sub(4) end
  self.first = false
  if long then return nil, "too long" end
  return line
end

local function fill(self)
  local got = tonumber(ffi.C.read(self.fd, buffer, CHUNK))
  if got < 0 and ffi.errno() == EINTR then return "wait" end
  if got < 0 then return "failed" end
  if got == 0 then return "end" end
  self.bytes = self.bytes + got
  self.text, self.at = ffi.string(buffer, got), 1
end

--- The next line without its newline. nil and a state otherwise: "wait" (a signal came, or nothing
-- is there yet), "end", "too long" (a line beyond 64 MiB, skipped), "failed" and the reason.
function Reader:next()
  while not self.ended do
    local stop = self.text:find("\n", self.at, true)
    if stop then
      keep(self, self.text:sub(self.at, stop - 1))
      self.at = stop + 1
      return take(self)
    end
    if self.at <= #self.text then keep(self, self.text:sub(self.at)) end
    self.text, self.at = "", 1
    if not self:ready(0) then return nil, "wait" end
    local state = fill(self)
    if state == "failed" then return nil, state, reason() end
    if state == "wait" then return nil, state end
    if state == "end" then
      self.ended = true
      if self.length > 0 then return take(self) end
    end
  end
  return nil, "end"
end

return lines
