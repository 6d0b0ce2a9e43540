-- Enter revocations, drop those that have ended, and make the version new.
-- KEYS: version, revocations. ARGV: new version, end of what has ended, then pairs of end and revocation.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[2])
for i = 3, #ARGV, 2 do redis.call('ZADD', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('SET', KEYS[1], ARGV[1])
return 1
