-- Whether a tenant may use objects; if all may, note an intent.
-- ARGV: exchange of the intent, or ''; what it is; how many intents are kept; for each object a sign: 1 where it may be
-- used although it is unknown. Then for each its kind, 1 where that is listed, its id or digest.
-- Returns a sign for each object, and of all entries of the tenant: their mark, 1 if all it has ever made is
-- recorded.
local signs = {}
local all = true
for n = 1, #ARGV[4] do
  local at = 2 + 3 * n
  local may = string.sub(ARGV[4], n, n) == '1' or has(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  all = all and may
  signs[n] = may and '1' or '0'
end
if all and ARGV[1] ~= '' then
  local intents = base .. ':i'
  redis.call('HSET', intents, ARGV[1], ARGV[2])
  local most = tonumber(ARGV[3])
  if redis.call('HLEN', intents) > most then
    local left = redis.call('HGETALL', intents)
    local times, sorted = {}, {}
    for n = 2, #left, 2 do
      times[n / 2] = tonumber(cjson.decode(left[n])[3])
      sorted[n / 2] = times[n / 2]
    end
    table.sort(sorted)
    local oldest = sorted[math.ceil(most / 10)]
    for n = 1, #times do
      if times[n] <= oldest then redis.call('HDEL', intents, left[2 * n - 1]) end
    end
  end
end
local known = redis.call('HMGET', base .. ':m', 'mark', 'recorded')
return {table.concat(signs), known[1] or '', known[2] or ''}
