std = "luajit"
max_line_length = 100
exclude_files = { "build", "build-*" }
files["tests"] = { std = "luajit+busted" }
files["examples/**/*_spec.lua"] = { std = "luajit+busted" }
