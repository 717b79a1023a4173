--- What texts and numbers are timestamps, and their form on the wire, by the rules of the wire's
-- contract.
local ffi = require "ffi"

local timestamps = {}

-- Days from 1970-01-01, and back: years that begin in March, in eras of 400.
local function days_of(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  local leaps = math.floor(year_of_era / 4) - math.floor(year_of_era / 100)
  return era * 146097 + year_of_era * 365 + leaps + day_of_year - 719468
end

local function date_of(days)
  days = days + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524)
    - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  return year + era * 400 + (month <= 2 and 1 or 0), month, day
end

-- In UTC; nil outside the years 1 to 9999.
local function timestamp(seconds, micros)
  if seconds < -62135596800 or seconds >= 253402300800 then return nil end
  local days = math.floor(seconds / 86400)
  local year, month, day = date_of(days)
  local rest = seconds - days * 86400
  local text = ("%04d-%02d-%02dT%02d:%02d:%02d"):format(year, month, day, math.floor(rest / 3600),
    math.floor(rest / 60) % 60, rest % 60)
  return text .. (micros == 0 and "Z" or (".%06dZ"):format(micros))
end

local function is_date(year, month, day)
  if year < 1 or month < 1 or month > 12 or day < 1 then return false end
  return select(2, date_of(days_of(year, month, day))) == month
end

-- Seconds of the offset, and whether it stands as the wire has it.
local function zone(text)
  if text == "Z" then return 0, true end
  if text == "" then return 0, false end
  local sign, hours, colon, minutes = text:match "^([+-])(%d%d)(:?)(%d%d)$"
  if not sign or tonumber(hours) > 23 or tonumber(minutes) > 59 then return nil end
  local seconds = hours * 3600 + minutes * 60
  return sign == "-" and -seconds or seconds, colon == ":" and seconds > 0
end

--- A timestamp's text in the form of the wire: as it stands if that is usual, else in UTC; nil: it
-- is none.
function timestamps.of_text(text)
  local year, month, day, clock = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$"
  if not year or not is_date(tonumber(year), tonumber(month), tonumber(day)) then return nil end
  local days = days_of(tonumber(year), tonumber(month), tonumber(day))
  if clock == "" then return timestamp(days * 86400, 0) end
  local between, hour, minute, second, rest = clock:match "^([T ])(%d%d):(%d%d):(%d%d)(.*)$"
  if not hour or hour + 0 > 23 or minute + 0 > 59 or second + 0 > 59 then return nil end
  local fraction, behind = rest:match "^%.(%d+)(.*)$"
  local offset, usual = zone(behind or rest)
  if not offset then return nil end
  local micros = fraction and (fraction .. "00000"):sub(1, 6) + 0 or 0
  usual = usual and between == "T" and (not fraction or #fraction == 6 and micros > 0)
  local utc = timestamp(days * 86400 + hour * 3600 + minute * 60 + second - offset, micros)
  return utc and (usual and text or utc)
end

--- The same of a number's text and value: seconds since 1970, or milliseconds where seconds would
-- lie beyond the year 2603.
function timestamps.of_number(raw, double)
  local scale = math.abs(double) > 2e10 and 1000LL or 1000000LL
  if math.abs(double) > 1e15 then return nil end
  local micros = raw:find "[.eE]"
    and ffi.cast("int64_t", double * tonumber(scale) + (double < 0 and -0.5 or 0.5))
    or ffi.cast("int64_t", double) * scale
  local rest = micros % 1000000LL
  if rest < 0 then rest = rest + 1000000LL end
  return timestamp(tonumber((micros - rest) / 1000000LL), tonumber(rest))
end

return timestamps
