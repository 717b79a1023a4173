--- Files for a spec, in a folder of their own that goes with it.
local ffi = require "ffi"

ffi.cdef "char *mkdtemp(char *pattern);"

local tmp = {}

local folders = {}

--- A new folder's path.
function tmp.dir()
  local pattern = (os.getenv "TMPDIR" or "/tmp") .. "/moonbus-spec-XXXXXX"
  local buffer = ffi.new("char[?]", #pattern + 1, pattern)
  assert(ffi.C.mkdtemp(buffer) ~= nil, "mkdtemp failed")
  folders[#folders + 1] = ffi.string(buffer)
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
