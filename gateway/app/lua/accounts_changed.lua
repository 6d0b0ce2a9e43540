-- All uses of accounts, unless the version is still the one that the caller knows; without any, that is lost.
-- KEYS: version, uses. ARGV: the version that is known.
local version = redis.call('GET', KEYS[1]) or ''
if version ~= '' and version == ARGV[1] then return {version} end
return {version, redis.call('HGETALL', KEYS[2])}
