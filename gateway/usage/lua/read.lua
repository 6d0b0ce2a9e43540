-- All counters under each of these keys.
local found = {}
for n, key in ipairs(KEYS) do found[n] = redis.call('HGETALL', key) end
return found
