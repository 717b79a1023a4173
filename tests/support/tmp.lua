--- Files for a spec, in folders of their own that go with it, however it ends.
local ffi = require "ffi"

ffi.cdef [[
char *mkdtemp(char *pattern);
int getpid(void);
int chmod(const char *path, unsigned mode);
]]

local PASSABLE = tonumber("711", 8) -- servers that run as another user reach their own folders

local tmp = {}

local folders = {}
local base

-- The folder of this process's folders. A watcher removes it, and ends the brokers in it, once the
-- process is gone.
local function base_dir()
  if base then return base end
  local pattern = (os.getenv "TMPDIR" or "/tmp") .. "/moonbus-spec-XXXXXX"
  local buffer = ffi.new("char[?]", #pattern + 1, pattern)
  assert(ffi.C.mkdtemp(buffer) ~= nil, "mkdtemp failed")
  base = ffi.string(buffer)
  assert(ffi.C.chmod(base, PASSABLE) == 0, "chmod failed")
  local guard = (os.getenv "MOONBUS_SOURCE" or ".") .. "/scripts/guard"
  os.execute(("setsid '%s' run '%s' watch %d '%s' </dev/null >/dev/null 2>&1 &")
    :format(guard, guard, ffi.C.getpid(), base))
  return base
end

--- A new folder's path; its maker removes it.
function tmp.make()
  local pattern = base_dir() .. "/XXXXXX"
  local buffer = ffi.new("char[?]", #pattern + 1, pattern)
  assert(ffi.C.mkdtemp(buffer) ~= nil, "mkdtemp failed")
  return ffi.string(buffer)
end

--- A new folder's path; tmp.clean removes it.
function tmp.dir()
  folders[#folders + 1] = tmp.make()
  return folders[#folders]
end

local shared

--- Write a file and return its path.
function tmp.file(name, text)
  shared = shared or tmp.dir()
  local path = shared .. "/" .. name
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

--- Remove everything made here.
function tmp.clean()
  for _, path in ipairs(folders) do os.execute(("rm -rf '%s'"):format(path)) end
  folders, shared = {}, nil
end

return tmp
