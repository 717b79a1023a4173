--- Which fields of its event a function reads, as its bytecode shows. What it cannot see is not
-- made for it. Anything but `event.name` lets the event out of sight: then all may be read.
local base = require "moonbus.base"

local bit, pcall, table = base.bit, base.pcall, base.table

local ok, util = pcall(require, "jit.util")

local FIRST = 0 -- the first parameter's slot

-- What an operand is, as jit.util.funcbc shows: a slot that is read, or the first one of several.
local VAR, BASE, RBASE = 3, 2, 4

local function is_read(mode, slot)
  return slot == FIRST and (mode == VAR or mode == BASE or mode == RBASE)
end

local function byte(instruction, n) return bit.band(bit.rshift(instruction, 8 * n), 255) end

local function mode_of(modes, n)
  if n == 1 then return bit.band(modes, 7) end
  return bit.band(bit.rshift(modes, n == 2 and 3 or 7), 15)
end

-- Numbers of instructions differ from one LuaJIT to another: these are read off functions that have
-- them. nil where they are not as expected.
local function find_get()
  local probe = function(event) return event.name end
  local instruction, modes = util.funcbc(probe, 1)
  local shape = instruction and bit.band(modes, 2047)
  if shape ~= 1 + VAR * 8 + 10 * 128 or byte(instruction, 3) ~= FIRST
    or util.funck(probe, -1 - byte(instruction, 2)) ~= "name" then return nil end
  return byte(instruction, 0)
end

local GET = ok and bit and find_get() -- event.name
local RETURN = GET and byte(util.funcbc(function() end, 1), 0) -- return without a value

--- The names of the fields a function may read of its first argument, sorted; nil: any of them.
-- Not seen are debug.getlocal and the like, called by what the function calls.
return function(fn)
  local info = GET and util.funcinfo(fn)
  if not info or not info.bytecodes or info.isvararg then return nil end
  if info.params == 0 then return {} end
  if info.children then return nil end -- a closure may hold the event
  local seen, names = {}, {}
  for pc = 1, info.bytecodes - 1 do
    local instruction, modes = util.funcbc(fn, pc)
    local op, a, b, c = byte(instruction, 0), byte(instruction, 1), byte(instruction, 3),
      byte(instruction, 2)
    -- without a second operand the third has its bits too
    local last = mode_of(modes, 2) == 0 and bit.rshift(instruction, 16) or c
    if op == GET and b == FIRST then
      local name = util.funck(fn, -1 - c)
      if not seen[name] then names[#names + 1] = name end
      seen[name] = true
    elseif op ~= RETURN and (is_read(mode_of(modes, 1), a)
      or (mode_of(modes, 2) ~= 0 and is_read(mode_of(modes, 2), b))
      or is_read(mode_of(modes, 3), last)) then
      return nil
    end
  end
  table.sort(names)
  return names
end
