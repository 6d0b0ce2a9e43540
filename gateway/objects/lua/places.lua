-- Where a tenant's entries are, below KEYS[1]: ':m' what is known of them as a whole ('unseen:KIND': there may be some of
-- which no answer has told), ':i' intents, ':k:KIND' those of a listed kind by creation, ':x:KIND' when the upstream forgets
-- them, ':d:KIND:LEVEL:NUMBER' digests of the others, each with the last day on which it counts (0: for ever), ':n' when
-- those of them came that count for ever and are new. LEVEL has 16 ^ LEVEL buckets, and is opened when one below is full.
local base = KEYS[1]
local DAY = 86400
local FULL = 100
-- Seconds in which an upstream may not have what it has just said it has made.
local NEW = 600
local clock = redis.call('TIME')
local now = tonumber(clock[1])
local today = math.floor(now / DAY)
local opened = {}

local function levels_of(kind)
  local levels = opened[kind]
  if not levels then
    levels = tonumber(redis.call('HGET', base .. ':m', 'levels:' .. kind) or 0)
    opened[kind] = levels
  end
  return levels
end

local function open_level(kind)
  opened[kind] = levels_of(kind) + 1
  redis.call('HSET', base .. ':m', 'levels:' .. kind, opened[kind])
end

local function bucket_of(kind, level, digest)
  return base .. ':d:' .. kind .. ':' .. level .. ':' .. struct.unpack('>I4', digest) % 16 ^ level
end

-- Of these kinds something may come of which no answer tells.
local function leave(kinds)
  for kind in string.gmatch(kinds, '%S+') do redis.call('HSET', base .. ':m', 'unseen:' .. kind, 1) end
end

local function made_so_far()
  return tonumber(redis.call('HGET', base .. ':m', 'made') or 0)
end

local function counts(day)
  return day and (day == '0' or tonumber(day) >= today)
end

local function has(kind, listed, name)
  if listed == '1' then return redis.call('ZSCORE', base .. ':k:' .. kind, name) end
  for level = levels_of(kind) - 1, 0, -1 do
    if counts(redis.call('HGET', bucket_of(kind, level, name), name)) then return true end
  end
  return false
end
