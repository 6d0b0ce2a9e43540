-- What was issued and has not expired.
-- KEYS: register. ARGV: now.
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')
