-- All revocations, unless the version is still the one that the caller knows.
-- KEYS: version, revocations. ARGV: the version that is known.
local version = redis.call('GET', KEYS[1]) or ''
if version == ARGV[1] then return {version} end
return {version, redis.call('ZRANGE', KEYS[2], 0, -1)}
