exec lua5.4 bench.lua 3
