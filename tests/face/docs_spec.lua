-- What the README and the manual say is so: their code compiles and runs, their tables are
-- complete, their links lead somewhere, and they keep to the limits on sentences and cells.
--
-- A line before a block of code says what becomes of it:
--   <!-- run -->         it runs: lua with luajit, c compiled against the build, sh with the
--                        program on the PATH
--   <!-- run broker -->  the same, with MOONBUS_BOOTSTRAP_SERVERS naming a broker
--   <!-- prints -->      the block holds what the one before has to print
-- Every block of lua compiles.
local cli_exit = require "moonbus.cli.exit"
local compiler = require "tests.support.compiler"
local moonbus = require "moonbus"
local pages = require "tests.support.pages"
local process = require "tests.support.process"
local tmp = require "tests.support.tmp"

local build = assert(os.getenv "MOONBUS_BUILD", "MOONBUS_BUILD is not set")
local source = assert(os.getenv "MOONBUS_SOURCE", "MOONBUS_SOURCE is not set")

local SECONDS = 120
local README_LINES = 150
local SENTENCE_WORDS = 25
local CELL_CHARACTERS = 120

local read = pages.read
local meta = read "lua/moonbus/meta.lua"

local manual, texts = pages.manual(), {}
for _, path in ipairs(manual) do texts[path] = read(path) end

local function section(path, title)
  return pages.section(texts[path], title) or error(path .. " has no section " .. title, 2)
end

local function sorted(list)
  table.sort(list)
  return list
end

local function keys_of(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  return sorted(keys)
end

describe("the README and the manual", function()
  local broker, address

  setup(function()
    broker = process.start(process.moonbus "broker")
    address = broker:wait_for(function(run) return run.stdout:match "^(%S+)\n" end)
  end)

  teardown(function()
    process.clean()
    tmp.clean()
  end)

  local runners = {}

  function runners.lua(block, options)
    return process.run({ "luajit", tmp.file("readme.lua", block.code) }, options)
  end

  function runners.c(block, options)
    local path = tmp.dir() .. "/readme"
    local made = process.run({ "sh", "-c",
      compiler.command(tmp.file("readme.c", block.code), path) }, { timeout = SECONDS })
    assert.equal(0, made.code, made.stderr)
    return process.run({ path }, options)
  end

  function runners.sh(block, options)
    options.env.PATH = build .. ":" .. os.getenv "PATH"
    return process.run({ "sh", "-euc", ("cd '%s'\n%s"):format(source, block.code) }, options)
  end

  local runs = {}

  for _, path in ipairs(manual) do
    for _, block in ipairs(pages.blocks(texts[path])) do
      local name = ("%s:%d: the %s"):format(path, block.line, block.language)
      if block.language == "lua" then
        it(name .. " compiles", function()
          assert(loadstring(block.code, "=" .. path))
        end)
      end
      if block.mark == "run" or block.mark == "run broker" then
        runs[block.language] = (runs[block.language] or 0) + 1
        it(name .. " runs", function()
          local env = {}
          if block.mark == "run broker" then env.MOONBUS_BOOTSTRAP_SERVERS = address end
          local run = runners[block.language](block, { env = env, timeout = SECONDS })
          assert.equal(0, run.code, run.stdout .. run.stderr)
          if block.prints then assert.equal(block.prints, run.stdout) end
        end)
      end
    end
  end

  it("have code that runs in every face", function()
    assert.same({ "c", "lua", "sh" }, keys_of(runs))
    assert(runs.lua >= 7 and runs.sh >= 3, "blocks of code have lost their marks")
  end)

  it("name only files that are there", function()
    for page, text in pairs(texts) do
      for _, folder in ipairs { "examples", "scripts", "lua", "tests" } do
        for path in text:gmatch("%f[%w/](" .. folder .. "/[%w_./-]*%w)") do
          -- what a run of an example leaves in its var/ is not there before
          assert(path:find("/var/", 1, true) or pages.exists(path),
            page .. " names " .. path .. ", which is not there")
        end
      end
    end
  end)

  it("have the generated parts of this build", function()
    local run = process.run { "luajit", source .. "/scripts/docs.lua", "--check" }
    assert.equal(0, run.code, run.stderr)
  end)

  it("explain every statistics key", function()
    local bus = moonbus.bus {}
    assert.same(keys_of(bus:get_stats_dict()),
      sorted(pages.first_cells(section("lua/manual/06-operations.md", "Statistics"))))
  end)

  it("have the exit codes of the program", function()
    local rows = {}
    for code, cause in section("lua/manual/08-errors.md", "Exit codes")
        :gmatch "\n| (%d+) | ([^|]*) |" do
      rows[#rows + 1] = { tonumber(code), cause }
    end
    assert.same(cli_exit.codes, rows)
  end)

  it("have every error code", function()
    local rows = {}
    for code, meaning in section("lua/manual/08-errors.md", "Error codes")
        :gmatch "\n| `(E%u+)` | ([^|]*) |" do
      rows[code] = meaning
    end
    assert.same(moonbus.errors(), rows)
  end)

  it("have every command", function()
    local listed, there = {}, {}
    for _, text in ipairs(pages.first_cells(section("README.md", "The command line"))) do
      local name = text:match "^moonbus (%l+)"
      if name then listed[name] = true end
    end
    local help = process.run(process.moonbus "--help")
    assert.equal(0, help.code)
    for name in help.stdout:match("Commands:\n(.-)\n\n"):gmatch "\n?   (%l+) +%u" do
      there[name] = true
    end
    assert.same(keys_of(there), keys_of(listed))
  end)

  it("name seed methods that are there", function()
    local bus = moonbus.bus {}
    local text = texts["lua/manual/09-from-eventsource-py.md"]
    for name in text:gmatch "`bus:([%l_]+)" do
      assert.equal("function", type(bus[name]), name)
    end
    for name in text:gmatch "moonbus%.([%l_]+)" do
      assert(moonbus[name] ~= nil, name)
    end
  end)

  it("have links that lead somewhere, in every document", function()
    local broken, count = pages.broken_links()
    assert.same({}, broken)
    assert(count > 50, count)
  end)

  it("keep to the limits on the README, on sentences and on cells", function()
    local lines = select(2, texts["README.md"]:gsub("\n", ""))
    assert(lines <= README_LINES, lines)
    local wrong, sentences = {}, 0
    for page, text in pairs(texts) do
      for _, cell in ipairs(pages.cells(text)) do
        local length = select(2, cell.text:gsub("[^\128-\191]", ""))
        if length > CELL_CHARACTERS then
          wrong[#wrong + 1] = ("%s:%d: %d characters"):format(page, cell.line, length)
        end
      end
      for _, sentence in ipairs(pages.sentences(text)) do
        sentences = sentences + 1
        if sentence.words > SENTENCE_WORDS then
          wrong[#wrong + 1] = ("%s:%d: %d words: %s"):format(page, sentence.line, sentence.words,
            sentence.text)
        end
      end
    end
    assert.same({}, wrong)
    assert(sentences > 300, sentences)
  end)
end)

describe("tests/README.md and tests/FAULTS.md", function()
  local faults = read "tests/FAULTS.md"
  local text = read "tests/README.md" .. faults

  -- The specs' own list of what they hold, as { [path] = { full names } }; nothing runs.
  local function listed(paths)
    local run = process.run({ "sh", "-c", ("cd '%s' && luajit \"$(command -v busted)\" --list %s")
      :format(source, table.concat(paths, " ")) }, { timeout = SECONDS, env = {
        MOONBUS_BUILD = build, MOONBUS_SOURCE = source, MOONBUS_TEST_KAFKA = "nobody:1" } })
    assert.equal(0, run.code, run.stderr)
    local names = {}
    for path, name in run.stdout:gmatch "(tests/[^\n:]*):%d+: ([^\n]*)" do
      names[path] = names[path] or {}
      table.insert(names[path], (name:gsub(" %[[^%]]*%]$", ""))) -- the conformance list's numbers
    end
    return names
  end

  local function holds(names, expected)
    for _, name in ipairs(names or {}) do
      if name == expected or name:sub(-#expected - 1) == " " .. expected then return true end
    end
    return false
  end

  it("cite only tests that are there", function()
    local cited, paths, seen = {}, {}, {}
    for path, name in text:gmatch '`(tests/[%w_/.]+): "([^`]*)"`' do
      cited[#cited + 1] = { path, name }
      if path:find "%.lua$" and not seen[path] then
        seen[path], paths[#paths + 1] = true, path
      end
    end
    assert(#cited > 50, #cited)
    local names = listed(paths)
    for _, each in ipairs(cited) do
      local path, name = each[1], each[2]
      local there
      if path:find "%.lua$" then there = holds(names[path], name)
      else there = read(path):find('"' .. name .. '"', 1, true) ~= nil end
      assert(there, ("%s has no test %q"):format(path, name))
    end
  end)

  it("name only files that are there", function()
    local count = 0
    for path in text:gmatch "`(%l+/[%w_/.]+%.%l+)[:`]" do
      if path:find "^%l+/test_" or path:find "_spec" and not path:find "^tests" then
        path = "tests/" .. path
      end
      read(path)
      count = count + 1
    end
    assert(count > 50, count)
  end)

  it("say of every fault where it is tested, or why it cannot be", function()
    local rows = 0
    for fault, here in faults:gmatch "\n| ([^|\n]*) | ([^|\n]*) |" do
      if fault ~= "fault" then
        assert(#fault > 20 and #here > 20, fault)
        rows = rows + 1
      end
    end
    assert(rows > 50, rows)
  end)
end)

describe("meta.lua", function()
  local function described(before, name)
    local line = "\n" .. before .. name
    local at = select(2, meta:find(line, 1, true))
    while at and meta:find("^[%w_]", at + 1) do at = select(2, meta:find(line, at, true)) end
    assert(at, name .. " is not described")
  end

  -- A task that never ran: nothing connects while the host is dry.
  local function new_task()
    local host = require("moonbus.task").host
    host.dry = true
    local task = moonbus.bus({}):start_consuming_in_background()
    host.dry = false
    return assert(task)
  end

  it("compiles", function()
    assert(loadstring(meta))
  end)

  it("describes every name of the module", function()
    for name, value in pairs(moonbus) do
      if type(value) == "function" then described("function moonbus.", name)
      else described("---@field ", name) end
    end
    for name in pairs(moonbus.json) do described("function moonbus.json.", name) end
  end)

  it("describes every method", function()
    local kind = moonbus.event("MetaTested", {}, { registry = moonbus.new_registry() })
    local projection = moonbus.projection("meta", { handles = { X = function() end } })
    for class, object in pairs {
      Bus = moonbus.bus {}, Registry = moonbus.registry, Event = kind,
      Projection = projection, Task = new_task(),
    } do
      local methods = (class == "Event" and object or getmetatable(object)).__index
      for name, value in pairs(methods) do
        if type(value) == "function" and not name:find "^__" then
          described("function " .. class .. ":", name)
        end
      end
    end
  end)

  it("describes every option, with the choices it has", function()
    for _, option in ipairs(moonbus.options()) do
      local line = meta:match("\n%-%-%-@field " .. option.key .. "%? ([^\n]*)")
      assert(line, option.key .. " is not described")
      if option.choices then
        assert.equal('"' .. option.choices:gsub("|", '"|"') .. '"', line)
      else
        assert.equal(option.type, line)
      end
    end
  end)

  it("has every error code with its text", function()
    local found = {}
    for code, text in meta:gmatch '\n%-%-%-| "(E%u+)" +# ([^\n]*)' do found[code] = text end
    assert.same(moonbus.errors(), found)
  end)

  it("describes every statistics key", function()
    for name in pairs(moonbus.bus({}):get_stats_dict()) do described("---@field ", name) end
  end)
end)
