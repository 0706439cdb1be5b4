-- SPDX-License-Identifier: MIT
-- Floating point, tables, strings and closures, in what Lua 5.1 (LuaJIT) and 5.4 share. The argument scales the work.
local scale = tonumber(arg[1])

local function nbody(steps)
  local b = { { 0, 0, 0, 0, 0, 0, 39.5 }, { 4.8, -1.2, -0.1, 0.6, 2.8, -0.02, 0.04 }, { 8.3, 4.1, -0.4, -1, 1.8, 0.008, 0.01 },
    { 12.9, -15.1, -0.2, 1.1, 0.9, -0.01, 0.002 }, { 15.4, -25.9, 0.2, 1, 0.6, -0.03, 0.002 } }
  for _ = 1, steps do
    for i = 1, #b do
      local p = b[i]
      for j = i + 1, #b do
        local q = b[j]
        local dx, dy, dz = p[1] - q[1], p[2] - q[2], p[3] - q[3]
        local d = dx * dx + dy * dy + dz * dz
        local m = 0.01 / (d * math.sqrt(d))
        p[4], p[5], p[6] = p[4] - dx * q[7] * m, p[5] - dy * q[7] * m, p[6] - dz * q[7] * m
        q[4], q[5], q[6] = q[4] + dx * p[7] * m, q[5] + dy * p[7] * m, q[6] + dz * p[7] * m
      end
    end
    for i = 1, #b do
      local p = b[i]
      p[1], p[2], p[3] = p[1] + 0.01 * p[4], p[2] + 0.01 * p[5], p[3] + 0.01 * p[6]
    end
  end
  return string.format("%.9f", b[1][1] + b[2][2] + b[3][3])
end

local function sieve(n)
  local composite, count = {}, 0
  for i = 2, n do
    if not composite[i] then
      count = count + 1
      for j = i * i, n, i do composite[j] = true end
    end
  end
  return count
end

local function words(bytes)
  local f = assert(io.open("text.txt"))
  local text, count, list = f:read(bytes), {}, {}
  f:close()
  for w in text:gmatch("%a+") do count[w] = (count[w] or 0) + 1 end
  for w, c in pairs(count) do list[#list + 1] = { w, c } end
  table.sort(list, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  local out = {}
  for i = 1, 20 do out[i] = list[i][1] .. "=" .. list[i][2] end
  return table.concat(out, " ")
end

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

print(nbody(20000 * scale))
print(sieve(500000 * scale))
print(words(500000 * scale))
print(fib(24 + math.floor(math.log(scale) / math.log(1.6) + 0.5)))
