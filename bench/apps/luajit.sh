exec luajit bench.lua 20
