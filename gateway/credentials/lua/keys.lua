-- Say which keys a gateway has and until when credentials of them are in use; return what all gateways say.
-- KEYS: keys by gateway, keys in use. ARGV: the gateway, for how many seconds its word holds, its keys with commas
-- between them (none: it has no say), then pairs of a moment and a key.
local now = tonumber(redis.call('TIME')[1])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', now + ARGV[2], ARGV[3]))
end
-- A key that was taken away for good is used until infinity, and nothing is greater.
for i = 4, #ARGV, 2 do redis.call('ZADD', KEYS[2], 'GT', ARGV[i], ARGV[i + 1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local said, held = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #said, 2 do
  local ends, keys = string.match(said[i + 1], '^(%d+) (.*)$')
  if ends and tonumber(ends) > now then held[#held + 1] = keys else redis.call('HDEL', KEYS[1], said[i]) end
end
return {held, redis.call('ZRANGEBYSCORE', KEYS[2], now, '(+inf')}
