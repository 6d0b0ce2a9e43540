-- Put what an exchange really used in place of what it took, and forget that it took it: once. What is not named
-- stays held.
-- ARGV: exchange id, now in microseconds ('': Redis time), then per account the number of its charges, and per
--   charge dimension, capacity in permits, tick in microseconds, permits that were used.
-- Reply: how many of these charges the exchange held.

local record_name, now = '@' .. ARGV[1], microseconds(ARGV[2])
local found, position = 0, 3

for n = 1, #KEYS, 2 do
  local account, open = KEYS[n], KEYS[n + 1]
  reclaim(account, open, now)
  local count = tonumber(ARGV[position])
  local fields, used = { record_name }, {}
  for c = 1, count do
    local at = position + 4 * c - 3
    fields[c + 1] = ARGV[at]
    used[ARGV[at]] = {
      capacity = tonumber(ARGV[at + 1]), tick = tonumber(ARGV[at + 2]), grains = tonumber(ARGV[at + 3]) * GRAINS,
    }
  end
  position = position + 4 * count + 1

  local values = call('HMGET', account, unpack(fields))
  if values[1] then
    local buckets, writes, kept, alive = {}, {}, {}, 0
    for f = 2, #fields do buckets[fields[f]] = values[f] end
    for dimension, reserved in string.gmatch(values[1], '(%S+) (%d+)') do
      local charge = used[dimension]
      if charge then
        found = found + 1
        local before = still_taken(buckets[dimension], charge.capacity, charge.tick, now)
        local kept_grains = charge.tick > 0 and charge.grains or 0
        local after = bounded(before - tonumber(reserved) + kept_grains, charge.capacity, charge.tick)
        writes[#writes + 1] = dimension
        writes[#writes + 1] = bucket_text(after, charge.tick, now)
        alive = max(alive, milliseconds_to_full(after, charge.capacity, charge.tick))
      else
        kept[#kept + 1] = dimension .. ' ' .. reserved
      end
    end
    if #kept > 0 then
      writes[#writes + 1] = record_name
      writes[#writes + 1] = table.concat(kept, ' ')
    else
      call('HDEL', account, record_name)
      call('ZREM', open, ARGV[1])
    end
    if #writes > 0 then call('HSET', account, unpack(writes)) end
    keep(account, open, alive, false)
  end
end

return found
