-- What was issued and has not expired, first to expire first.
-- KEYS: register. ARGV: now, how many to pass over, how many at most; -1: all.
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'LIMIT', ARGV[2], ARGV[3])
