-- Put what an exchange really used in place of what it took, free its slots and forget it: once.
-- ARGV: exchange id, now in microseconds ('': Redis time), then per account the number of its charges, and per
--   charge dimension, capacity in permits, tick in microseconds, permits that were used.
-- Reply: the number of accounts in which the exchange was open.

local record_name, now = '@' .. ARGV[1], microseconds(ARGV[2])
local found, position = 0, 3

for n = 1, #KEYS, 2 do
  local account, open = KEYS[n], KEYS[n + 1]
  reclaim(account, open, now)
  local count = tonumber(ARGV[position])
  local fields, used = { record_name, SLOTS }, {}
  for c = 1, count do
    local at = position + 4 * c - 3
    fields[c + 2] = ARGV[at]
    used[ARGV[at]] = {
      capacity = tonumber(ARGV[at + 1]), tick = tonumber(ARGV[at + 2]), grains = tonumber(ARGV[at + 3]) * GRAINS,
    }
  end
  position = position + 4 * count + 1
  used[SLOTS] = { capacity = 1, tick = 0, grains = 0 }

  local values = call('HMGET', account, unpack(fields))
  if values[1] then
    found = found + 1
    local buckets, writes, alive = {}, {}, 0
    for f = 2, #fields do buckets[fields[f]] = values[f] end
    for dimension, reserved in string.gmatch(values[1], '(%S+) (%d+)') do
      local charge = used[dimension]
      if charge then
        local before = still_taken(buckets[dimension], charge.capacity, charge.tick, now)
        local after = bounded(before - tonumber(reserved) + charge.grains, charge.capacity, charge.tick)
        writes[#writes + 1] = dimension
        writes[#writes + 1] = bucket_text(after, charge.tick, now)
        alive = max(alive, milliseconds_to_full(after, charge.capacity, charge.tick))
      end
    end
    if #writes > 0 then call('HSET', account, unpack(writes)) end
    call('HDEL', account, record_name)
    call('ZREM', open, ARGV[1])
    keep(account, open, alive, false)
  end
end

return found
