-- Every spec below tests/ and every test in C is known to ctest, under the label of its folder, and
-- ctest knows no others: luajit tests/support/registered.lua BUILD, in the repository.
local json = require "cjson"

local build = assert(arg[1], "usage: registered.lua BUILD")

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  assert(pipe:close(), command)
  return text
end

local function labels_of(test)
  for _, property in ipairs(test.properties or {}) do
    if property.name == "LABELS" then return property.value end
  end
  return {}
end

-- path -> label, of files whose names are those of tests; name -> path, of those in C.
local expected, in_c = {}, {}
for path in lines_of "find tests -name '*_spec.lua' -o -name 'test_*.c'":gmatch "[^\n]+" do
  local name = path:match "^tests/c/.*test_([%w_]*)%.c$"
  if name then in_c[name] = path end
  expected[path] = path:match "^tests/c/" and "unit" or path:match "^tests/(.*)/[^/]*$"
end

local source = lines_of "pwd":match "[^\n]+" .. "/"

-- The file that a test of ctest runs; nil for the one that runs this.
local function file_of(test)
  for _, word in ipairs(test.command or {}) do
    if word:find "_spec%.lua$" and word:sub(1, #source) == source then
      return word:sub(#source + 1)
    end
  end
  local name = test.name:match "^c_(.*)"
  return name and (in_c[name] or ("tests/c/test_%s.c"):format(name))
end

local found, problems = {}, {}
local listed = json.decode(lines_of(("ctest --test-dir '%s' --show-only=json-v1"):format(build)))
for _, test in ipairs(listed.tests) do
  local path = file_of(test)
  if path and not expected[path] then
    problems[#problems + 1] = ("ctest knows %s, but there is no %s"):format(test.name, path)
  elseif path then
    for _, label in ipairs(labels_of(test)) do
      if label == expected[path] then found[path] = true end
    end
  end
end
local count = 0
for path, label in pairs(expected) do
  count = count + 1
  if not found[path] then
    problems[#problems + 1] = ("%s: no test with the label %s runs it"):format(path, label)
  end
end
if count == 0 then problems[1] = "there are no tests" end

for _, text in ipairs(problems) do
  io.stderr:write(text, "; configure the build again, or see tests/CMakeLists.txt\n")
end
print(("%d files of tests, %d problems"):format(count, #problems))
os.exit(#problems == 0)
