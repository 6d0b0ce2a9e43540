-- Whether a tenant may use objects; if all may, note an intent.
-- ARGV: exchange of the intent, or ''; what it is; kinds of which more may come of it than is told; how many intents are
-- kept; for each object a sign: 1 where it may be used although it is unknown, ? where that is asked of a tenant who is
-- gone: may it be that one's? Then for each its kind, 1 where that is listed, its id or digest.
-- Returns a sign for each object, and of all entries of the tenant: their mark, 1 if all it has ever made is
-- recorded.
local MANY = 100
local asked = {}
local function may_be_unseen(kind)
  if asked[kind] == nil then
    local intents = base .. ':i'
    local unseen = redis.call('HEXISTS', base .. ':m', 'unseen:' .. kind) == 1 or redis.call('HLEN', intents) > MANY
    if not unseen then
      local begins = '["' .. kind .. '"'
      for _, intent in ipairs(redis.call('HVALS', intents)) do
        unseen = unseen or string.sub(intent, 1, #begins) == begins
      end
    end
    asked[kind] = unseen
  end
  return asked[kind]
end

local signs = {}
local all = true
for n = 1, #ARGV[5] do
  local at = 3 + 3 * n
  local kind, sign = ARGV[at], string.sub(ARGV[5], n, n)
  local may = sign == '1' or has(kind, ARGV[at + 1], ARGV[at + 2]) or (sign == '?' and may_be_unseen(kind))
  all = all and may
  signs[n] = may and '1' or '0'
end
if all and ARGV[1] ~= '' then
  local intents = base .. ':i'
  redis.call('HSET', intents, ARGV[1], ARGV[2])
  leave(ARGV[3])
  local most = tonumber(ARGV[4])
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
local known = redis.call('HMGET', base .. ':m', 'mark', 'recorded', 'made')
return {table.concat(signs), known[1] and known[1] .. '-' .. (known[3] or '0') or '', known[2] or ''}
