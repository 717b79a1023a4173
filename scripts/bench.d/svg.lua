--- svg.lua: the rates of scripts/bench as bars, with the spread of the runs, in an SVG file.
local number -- how report.lua writes them

local LEFT, WIDTH, RIGHT, BAR, GAP = 330, 520, 110, 16, 8

local function escape(text)
  return (text:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;",
                                 ['"'] = "&quot;" }))
end

local svg = {}

local function bar(out, case, y, scale)
  local s = case.summary.events_per_second
  local ours = case.title:find "^moonbus" and "#2f6fb0" or "#9aa0a6"
  local middle = y + BAR / 2
  out[#out + 1] = ('<text x="%d" y="%.1f" text-anchor="end">%s</text>')
    :format(LEFT - 8, middle + 4, escape(case.title))
  out[#out + 1] = ('<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>')
    :format(LEFT, y, math.max(1, s.median * scale), BAR, ours)
  out[#out + 1] = ('<path d="M%.1f %.1fH%.1f" stroke="#222"/>')
    :format(LEFT + s.low * scale, middle, LEFT + s.high * scale)
  out[#out + 1] = ('<text x="%.1f" y="%.1f">%s</text>')
    :format(LEFT + s.high * scale + 6, middle + 4, number(s.median))
end

--- The picture as text: one group of bars for consuming and one for publishing.
function svg.draw(list, caption, write_number)
  number = write_number
  local out, y = {}, 28
  for _, group in ipairs { { "consume", "consuming, events/s" },
                           { "publish", "publishing, events/s" } } do
    local cases, most = {}, 0
    for _, case in ipairs(list) do
      if case.group == group[1] and case.summary then
        cases[#cases + 1] = case
        most = math.max(most, case.summary.events_per_second.high)
      end
    end
    if #cases > 0 then
      out[#out + 1] = ('<text x="%d" y="%d" font-weight="bold">%s</text>'):format(LEFT, y, group[2])
      y = y + 10
      for _, case in ipairs(cases) do
        bar(out, case, y, WIDTH / most)
        y = y + BAR + GAP
      end
      y = y + 28
    end
  end
  out[#out + 1] = ('<text x="8" y="%d" font-size="10">%s</text>'):format(y, escape(caption))
  return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
    .. 'font-family="sans-serif" font-size="12">\n'):format(LEFT + WIDTH + RIGHT, y + 12)
    .. '<rect width="100%" height="100%" fill="white"/>\n' .. table.concat(out, "\n")
    .. "\n</svg>\n"
end

return svg
