-- Have nobody miss the keys of this kid any more; returns how many of them gateways have or credentials use.
-- KEYS: keys by gateway, keys in use. ARGV: the kid.
local found, count = {}, 0
local function look(keys)
  for key in string.gmatch(keys, '[^, ]+') do
    local at = string.find(key, ':', 1, true)
    if at and string.sub(key, at + 1) == ARGV[1] then found[key] = true end
  end
end
local said = redis.call('HGETALL', KEYS[1])
for i = 2, #said, 2 do look(said[i]) end
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do look(key) end
for key in pairs(found) do
  redis.call('ZADD', KEYS[2], '+inf', key)
  count = count + 1
end
return count
