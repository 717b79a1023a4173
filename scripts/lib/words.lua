#!/usr/bin/env luajit
-- words.lua: words that the tree does not use, as many readers do not know them or read them
-- wrongly. It goes over all files under src, lua, scripts, tests and examples, and README.md.
-- Run: luajit scripts/lib/words.lua [ROOT]

-- A word or phrase in lower case -> what to write instead. Some are spelled apart, so that a search
-- for them finds nothing.
local INSTEAD = {
  ["me" .. "nd"] = "fix", ["me" .. "nds"] = "fixes", ["me" .. "nded"] = "fixed",
  ["me" .. "nding"] = "fixing", ["an" .. "ew"] = "again", ["le" .. "st"] = "so that ... not",
  ["wan" .. "ted"] = "expected", ["in vain"] = "without success",
  ["let go"] = "release", ["lets go"] = "releases", ["letting go"] = "releasing",
  ["be had"] = "be obtained", ["of no account"] = "ignored", ["comes to"] = "results in",
  tell = "report", tells = "reports", told = "reported",
}
local SELF = "scripts/lib/words.lua" -- names them

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local root = arg[1] or here .. "/../.."
local files, found = 0, 0

local function check_line(path, number, line)
  local text = " " .. line:lower():gsub("[^%w]+", " ") .. " "
  for phrase, better in pairs(INSTEAD) do
    if text:find(" " .. phrase .. " ", 1, true) then
      found = found + 1
      io.stderr:write(("words: %s:%d: expected another word for %q, such as %q\n")
        :format(path, number, phrase, better))
    end
  end
end

local pipe = assert(io.popen("cd '" .. root .. "' && find src lua scripts tests examples README.md"
  .. " -type f -not -name '*.pyc' -not -path '*/var/*' | sort"))
for path in pipe:lines() do
  files = files + 1
  local number = 0
  for line in path ~= SELF and io.lines(root .. "/" .. path) or function() end do
    number = number + 1
    check_line(path, number, line)
  end
end
pipe:close()

if files == 0 then
  io.stderr:write("words: ", root, ": expected the files of a tree, found none\n")
  found = 1
end
print(("words: %d files, %d problems"):format(files, found))
os.exit(found == 0)
