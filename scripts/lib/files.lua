-- files.lua: whole files for the scripts beside it. A failure ends the script: fail(message, ...)
-- reports it.
local files = {}

--- The bytes of a file.
function files.read(path, fail)
  local file, err = io.open(path, "rb")
  if not file then fail("cannot read %s", err) end
  local text = file:read "*a"
  file:close()
  return text
end

function files.write(path, text, fail)
  local file, err = io.open(path, "wb")
  if not file then fail("cannot write %s", err) end
  local wrote, why = file:write(text)
  local closed, why_not = file:close()
  if not (wrote and closed) then fail("cannot write %s: %s", path, why or why_not) end
end

return files
