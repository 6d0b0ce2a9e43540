-- Put what an exchange really used in place of what it took, free its slots and forget it: once.
-- ARGV: exchange id, now in microseconds ('': Redis time), then per account the number of its charges, and per
--   charge dimension, capacity in permits, tick in microseconds, permits that were used.
-- Reply: the number of accounts in which the exchange was open.

local exchange, now = ARGV[1], microseconds(ARGV[2])
local found, position = 0, 3

for n = 1, #KEYS, 2 do
  local account, open = KEYS[n], KEYS[n + 1]
  reclaim(account, open, now)
  local used = {}
  local count = tonumber(ARGV[position])
  for c = 1, count do
    local at = position + 4 * c - 3
    used[ARGV[at]] = {
      capacity = tonumber(ARGV[at + 1]), tick = tonumber(ARGV[at + 2]), grains = tonumber(ARGV[at + 3]) * GRAINS,
    }
  end
  position = position + 4 * count + 1
  local record = redis.call('HGET', account, '@' .. exchange)
  if record then
    found = found + 1
    local alive = 0
    for dimension, reserved in string.gmatch(record, '(%S+) (%d+)') do
      reserved = tonumber(reserved)
      local charge = used[dimension]
      if dimension == SLOTS then charge = { capacity = 1, tick = 0, grains = 0 } end
      if charge then
        local before = still_taken(redis.call('HGET', account, dimension), charge.capacity, charge.tick, now)
        local after = bounded(before - reserved + charge.grains, charge.capacity, charge.tick)
        redis.call('HSET', account, dimension, bucket_text(after, charge.tick, now))
        alive = math.max(alive, milliseconds_to_full(after, charge.capacity, charge.tick))
      end
    end
    redis.call('HDEL', account, '@' .. exchange)
    redis.call('ZREM', open, exchange)
    keep(account, open, alive)
  end
end

return found
