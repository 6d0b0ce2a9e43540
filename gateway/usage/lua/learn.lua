-- Learn how long answers of a tenant have been, and say how long those of all its models are.
-- KEYS: a hash, by model: answers seen, what is kept of their number, of their total and of their squares', the longest,
-- when that was and when the last one was, in unix seconds.
-- ARGV: what is kept at each further answer; seconds by which the longest counts for half; most models; seconds to keep
-- all of it; then per model its name, and the same numbers of the answers that came later.
local function numbers(text)
  local found = {}
  for word in string.gmatch(text or '', '%S+') do
    local number = tonumber(word)
    if not (number and number >= 0 and number < 1e18) then return {} end -- nothing that was told is so
    found[#found + 1] = number
  end
  return found
end
for at = 5, #ARGV, 2 do
  local told, known = numbers(ARGV[at + 1]), numbers(redis.call('HGET', KEYS[1], ARGV[at]))
  if #known >= 7 then
    local kept = tonumber(ARGV[1]) ^ told[1]
    local late = known[5] * 0.5 ^ (math.max(0, told[6] - known[6]) / tonumber(ARGV[2]))
    told[1] = told[1] + known[1]
    for n = 2, 4 do told[n] = told[n] + known[n] * kept end
    if told[5] < late then told[5], told[6] = known[5], known[6] end
    told[7] = math.max(told[7], known[7])
  end
  for n = 1, 7 do told[n] = string.format('%.17g', told[n]) end
  redis.call('HSET', KEYS[1], ARGV[at], table.concat(told, ' '))
end
local all = redis.call('HGETALL', KEYS[1])
while #all > 2 * tonumber(ARGV[3]) do
  local oldest, when = 1, math.huge
  for at = 1, #all, 2 do
    local last = numbers(all[at + 1])[7] or 0
    if last < when then oldest, when = at, last end
  end
  redis.call('HDEL', KEYS[1], all[oldest])
  table.remove(all, oldest + 1)
  table.remove(all, oldest)
end
if #ARGV > 4 then redis.call('EXPIRE', KEYS[1], ARGV[4]) end
return all
