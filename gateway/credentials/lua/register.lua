-- Enter an issued credential; the register is forgotten with its last one.
-- KEYS: register. ARGV: now, when it expires, the entry.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
redis.call('EXPIREAT', KEYS[1], string.format('%.0f', last[2]))
return 1
