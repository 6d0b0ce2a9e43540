-- Which tenants have had which storage. ARGV: one more, or '' to have them all returned.
if ARGV[1] == '' then return redis.call('SMEMBERS', KEYS[1]) end
return redis.call('SADD', KEYS[1], ARGV[1])
