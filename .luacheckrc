std = "luajit"
max_line_length = 100
exclude_files = { "build", "build-*" }
-- the rest is in moonbus.base, as it was before scripts could assign it
files["lua"] = { std = "none", read_globals = { "require" } }
files["lua/moonbus/meta.lua"] = { std = "luajit" }
files["tests"] = { std = "luajit+busted" }
files["examples/**/*_spec.lua"] = { std = "luajit+busted" }
