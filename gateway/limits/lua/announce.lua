-- Say that a worker lives, and learn of the others.
-- ARGV: worker id, 'lives' or 'leaves', microseconds after which a silent worker no longer counts, milliseconds to keep.
-- Reply: the worker's place among the living (from 0, in the order of their ids), and how many live.

local call, worker = redis.call, ARGV[1]
if ARGV[2] == 'leaves' then
  call('ZREM', KEYS[1], worker)
  return { 0, 0 }
end

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
-- The clock has gone back: whoever is silent from now on is silent.
for _, other in ipairs(call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now), '+inf')) do
  call('ZADD', KEYS[1], string.format('%.0f', now), other)
end
call('ZADD', KEYS[1], string.format('%.0f', now), worker)
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[3])))
call('PEXPIRE', KEYS[1], ARGV[4])

local living, place = call('ZRANGE', KEYS[1], 0, -1), 0
for _, other in ipairs(living) do
  if other < worker then place = place + 1 end
end
return { place, #living }
