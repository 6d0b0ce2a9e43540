-- Say what the open exchanges of one account hold, those whose lease ends first before others. What is only known of
-- exchanges that are gone (buckets.lua) is none of that.
-- ARGV: how many to name.
-- Reply: now in microseconds; how many there are; per exchange its field, when its lease ends, and what it holds, packed.

local call = redis.call
local PER_STEP = 1000
local time, most = call('TIME'), tonumber(ARGV[1])
local found, count, at = { time[1] * 1000000 + time[2], 0 }, 0, 0
repeat
  local open = call('ZRANGE', KEYS[2], at, at + PER_STEP - 1, 'WITHSCORES')
  for n = 1, #open, 2 do
    if string.byte(open[n], 2) ~= 126 then
      count = count + 1
      if count <= most then
        found[#found + 1], found[#found + 2] = open[n], open[n + 1]
        found[#found + 1] = call('HGET', KEYS[1], open[n]) or ''
      end
    end
  end
  at = at + PER_STEP
until #open == 0
found[2] = count
return found
