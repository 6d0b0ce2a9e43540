-- Take every charge of an exchange, or none.
-- ARGV: mode (take: if all fit; debit: whatever the levels; look: nothing), exchange id ('' holds nothing),
--   lease in microseconds, now in microseconds ('': Redis time), then per account the number of its charges, and
--   per charge dimension, capacity in permits, tick in microseconds (0: slots), permits.
-- Reply: 1 if granted, else 0; then per charge the grains that are missing from its bucket.

local mode, exchange, lease, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), microseconds(ARGV[4])
local charges, known, granted, position = {}, {}, true, 5

for n = 1, #KEYS, 2 do
  local account, open = KEYS[n], KEYS[n + 1]
  reclaim(account, open, now)
  local fields, first = {}, #charges
  for c = 1, tonumber(ARGV[position]) do
    local at = position + 4 * c - 3
    fields[c] = ARGV[at]
    charges[first + c] = {
      account = n, dimension = ARGV[at], capacity = tonumber(ARGV[at + 1]), tick = tonumber(ARGV[at + 2]),
      grains = tonumber(ARGV[at + 3]) * GRAINS,
    }
  end
  position = position + 4 * #fields + 1
  fields[#fields + 1] = '@' .. exchange
  local values = call('HMGET', account, unpack(fields))
  -- An account in which the exchange is open already has been charged: this is a repetition.
  known[n] = exchange ~= '' and values[#fields]
  for c = 1, #fields - 1 do
    local charge = charges[first + c]
    charge.taken = still_taken(values[c], charge.capacity, charge.tick, now)
    local over = charge.grains > 0 and charge.taken + charge.grains > charge.capacity * GRAINS
    if over and not known[n] and mode ~= 'debit' then granted = false end
  end
end

if granted and mode ~= 'look' then
  local next_charge = 1
  for n = 1, #KEYS, 2 do
    local writes, record, alive = {}, {}, 0
    while charges[next_charge] and charges[next_charge].account == n do
      local charge = charges[next_charge]
      if known[n] then charge.grains = 0 end
      local after = bounded(charge.taken + charge.grains, charge.capacity, charge.tick)
      if charge.grains > 0 then
        writes[#writes + 1] = charge.dimension
        writes[#writes + 1] = bucket_text(after, charge.tick, now)
      end
      record[#record + 1] = format('%s %.0f', charge.dimension, after - charge.taken)
      charge.taken = after
      alive = max(alive, milliseconds_to_full(after, charge.capacity, charge.tick))
      next_charge = next_charge + 1
    end
    if exchange ~= '' and not known[n] then
      writes[#writes + 1] = '@' .. exchange
      writes[#writes + 1] = table.concat(record, ' ')
      call('ZADD', KEYS[n + 1], text(now + lease), exchange)
      alive = max(alive, ceil(lease / 1000))
    end
    if #writes > 0 then
      call('HSET', KEYS[n], unpack(writes))
      keep(KEYS[n], KEYS[n + 1], alive, exchange ~= '')
    end
  end
end

local reply = { granted and 1 or 0 }
for c = 1, #charges do reply[c + 1] = charges[c].taken end
return reply
