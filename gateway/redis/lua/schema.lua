-- Say that a gateway of a schema is here, unless one is, or was last, with which it cannot share what is kept.
-- KEYS: schemas, by the second in which a gateway last said so. ARGV: its own; seconds after which one that is silent no
-- longer counts; 'enters', or 'looks', which says nothing.
-- Reply: the schema with which it cannot share, else its own.
local mine, silent, said = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local known = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #known, 2 do
  local other = tonumber(known[i])
  if math.abs(other - mine) > 1 then return other end
  if other == mine then said = tonumber(known[i + 1]) end
end
if ARGV[3] == 'looks' then return mine end
local now = tonumber(redis.call('TIME')[1])
if math.abs(now - said) > silent / 4 then
  -- The clock has gone back: whoever is silent from now on is silent.
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    redis.call('ZADD', KEYS[1], now, other)
  end
  redis.call('ZADD', KEYS[1], now, mine)
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - silent)
end
return mine
