-- Note uses of accounts, and make the version new.
-- KEYS: version, uses. ARGV: new version, then pairs of use and whether it is the tenant's own.
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('SET', KEYS[1], ARGV[1])
return 1
