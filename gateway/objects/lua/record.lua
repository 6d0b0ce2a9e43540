-- Make objects a tenant's; what is its own already stays as it is.
-- ARGV: exchange whose intent is to be forgotten, or ''; kinds of which more may come of the objects than is told. Then for
-- each object its kind, 1 where that is listed, its id or
-- digest, the second of its creation, when the upstream forgets it (unix seconds; 0: never).
-- Returns how many are new.
local function clean(bucket)
  local fields = redis.call('HGETALL', bucket)
  for n = 1, #fields, 2 do
    if not counts(fields[n + 1]) then redis.call('HDEL', bucket, fields[n]) end
  end
end

-- Into a bucket that has had so many until now.
local function put(bucket, size, digest, expires)
  local day = expires == 0 and 0 or math.floor(expires / DAY) + 1
  redis.call('HSET', bucket, digest, day)
  if day == 0 then
    redis.call('PERSIST', bucket)
    redis.call('ZREMRANGEBYSCORE', base .. ':n', '-inf', now - NEW)
    redis.call('ZADD', base .. ':n', now, digest)
    redis.call('EXPIRE', base .. ':n', NEW)
    return
  end
  local ends = (day + 1) * DAY
  local left = size > 0 and redis.call('TTL', bucket) or 0
  if left >= 0 and now + left < ends then redis.call('EXPIREAT', bucket, ends) end
end

local function add_digest(kind, digest, expires)
  for level = 0, levels_of(kind) - 1 do
    local bucket = bucket_of(kind, level, digest)
    local size = redis.call('HLEN', bucket)
    -- Which is looked through now and then only: what nobody writes to goes when its last entry has gone.
    if size >= FULL and (level == levels_of(kind) - 1 or string.byte(digest, 12) % 16 == 0) then
      clean(bucket)
      size = redis.call('HLEN', bucket)
    end
    if size < FULL then return put(bucket, size, digest, expires) end
  end
  open_level(kind)
  local bucket = bucket_of(kind, levels_of(kind) - 1, digest)
  put(bucket, redis.call('HLEN', bucket), digest, expires)
end

local cleaned = {}
local function clean_listed(kind)
  if cleaned[kind] then return end
  cleaned[kind] = true
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', base .. ':x:' .. kind, '-inf', now - DAY, 'LIMIT', 0, 100)) do
    redis.call('ZREM', base .. ':k:' .. kind, id)
    redis.call('ZREM', base .. ':x:' .. kind, id)
  end
end

local function add_listed(kind, id, second, expires)
  clean_listed(kind)
  local key = base .. ':k:' .. kind
  local last = redis.call('ZREVRANGEBYSCORE', key, '(' .. second + 1, second, 'WITHSCORES', 'LIMIT', 0, 1)
  local score = last[2] and math.min(last[2] + 0.000001, second + 0.999999) or second
  redis.call('ZADD', key, string.format('%.17g', score), id)
  if expires ~= 0 then redis.call('ZADD', base .. ':x:' .. kind, expires, id) end
end

local new = 0
for at = 3, #ARGV, 5 do
  local kind, listed, name = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local second, expires = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if not has(kind, listed, name) then
    new = new + 1
    if listed == '1' then add_listed(kind, name, second, expires) else add_digest(kind, name, expires) end
  end
end
if new > 0 then
  leave(ARGV[2])
  redis.call('HINCRBY', base .. ':m', 'made', new)
end
if ARGV[1] ~= '' then redis.call('HDEL', base .. ':i', ARGV[1]) end
return new
