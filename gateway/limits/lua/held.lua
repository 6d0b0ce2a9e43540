-- Say what the open exchanges of one account hold, those whose lease ends first before others.
-- ARGV: how many to name.
-- Reply: now in microseconds; how many there are; per exchange its field, when its lease ends, and what it holds, packed.

local call = redis.call
local time = call('TIME')
local open = call('ZRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
local found = { time[1] * 1000000 + time[2], call('ZCARD', KEYS[2]) }
for n = 1, #open, 2 do
  found[#found + 1], found[#found + 2] = open[n], open[n + 1]
  found[#found + 1] = call('HGET', KEYS[1], open[n]) or ''
end
return found
