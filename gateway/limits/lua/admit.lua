-- Take every charge of an exchange that it does not hold yet, or none.
-- ARGV: mode (take: if all fit; debit: whatever the levels; look: nothing), exchange id ('' holds nothing),
--   lease in microseconds, now in microseconds ('': Redis time), then per account the number of its charges, and
--   per charge dimension, capacity in permits, tick in microseconds (0: slots), permits.
-- Reply: 1 if granted, else 0; then per charge the grains that are missing from its bucket.

local mode, exchange, lease, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), microseconds(ARGV[4])
local charges, records, granted, position = {}, {}, true, 5

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
  local held = {}
  if exchange ~= '' and values[#fields] then
    records[n] = values[#fields]
    for dimension in string.gmatch(records[n], '(%S+) %d+') do held[dimension] = true end
  end
  for c = 1, #fields - 1 do
    local charge = charges[first + c]
    charge.taken = still_taken(values[c], charge.capacity, charge.tick, now)
    charge.held = held[charge.dimension]
    -- What the exchange holds already is a repetition, and takes nothing.
    if charge.held then charge.grains = 0 end
    local over = charge.grains > 0 and charge.taken + charge.grains > charge.capacity * GRAINS
    if over and mode ~= 'debit' then granted = false end
  end
end

if granted and mode ~= 'look' then
  local next_charge = 1
  for n = 1, #KEYS, 2 do
    local writes, record, alive = {}, { records[n] }, 0
    local before = #record
    while charges[next_charge] and charges[next_charge].account == n do
      local charge = charges[next_charge]
      local after = bounded(charge.taken + charge.grains, charge.capacity, charge.tick)
      if charge.grains > 0 then
        writes[#writes + 1] = charge.dimension
        writes[#writes + 1] = bucket_text(after, charge.tick, now)
      end
      if not charge.held then record[#record + 1] = format('%s %.0f', charge.dimension, after - charge.taken) end
      charge.taken = after
      alive = max(alive, milliseconds_to_full(after, charge.capacity, charge.tick))
      next_charge = next_charge + 1
    end
    if exchange ~= '' and #record > before then
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
