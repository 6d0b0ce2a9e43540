-- What the scripts share: this text stands before each of them. The arithmetic is that of arithmetic.py, on the same
-- integers; all stay below 2^53, so doubles are exact.
--
-- An account is two keys that expire together, once its buckets are full:
--   a hash        per dimension "TAKEN TICK" in grains, per open exchange "@ID" = "DIMENSION GRAINS ..."
--   a sorted set  open exchange ids by the microsecond in which their lease runs out
-- A script reads what it needs of an account once (load), works on that, and writes what has changed once (save). So
-- what one key holds can fail before anything is written, and never after.

local call, byte, format, gmatch, match, sub = redis.call, string.byte, string.format, string.gmatch, string.match, string.sub
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local AT = byte('@')
local GRAINS = 60000
local MARGIN_MS = 60000
local MOST_RECLAIMED = 1000

local function microseconds(given)
  if given then return given end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function text(number) return format('%.0f', number) end

local function new_account(hash, open)
  return {
    hash = hash, open = open,
    fields = {},   -- of the hash: what is going to be needed, each once
    taken = {},    -- per dimension, as of the tick in `at`
    at = {},
    records = {},  -- per exchange that is open: per dimension the grains that it holds
    stored = {},   -- exchanges that the hash knew
    dirty = {},    -- dimensions and exchanges that have changed
    leased = {},   -- exchanges whose lease begins now
    alive = 0,     -- milliseconds that what has been written must live
  }
end

local function need(account, field)
  if account.fields[field] then return end
  account.fields[field] = true
  account.fields[#account.fields + 1] = field
end

local function read_bucket(account, dimension, value)
  local taken, at = match(value, '^(%d+) (%d+)$')
  account.taken[dimension], account.at[dimension] = tonumber(taken), tonumber(at)
  if not at then error('bad argument: no bucket: ' .. value, 0) end
end

-- Give back what exchanges took whose lease has run out: their worker is gone.
local function reclaim(account, expired)
  for _, exchange in ipairs(expired) do
    for dimension, grains in pairs(account.records[exchange] or {}) do
      if not account.at[dimension] then
        local value = call('HGET', account.hash, dimension)
        if value then read_bucket(account, dimension, value) end
      end
      if account.at[dimension] then
        account.taken[dimension] = max(0, account.taken[dimension] - grains)
        account.dirty[dimension] = true
      end
    end
    account.records[exchange] = nil
    account.stored[exchange] = true
    account.dirty['@' .. exchange] = true
  end
end

local function load(account, now)
  local fields = account.fields
  local expired = call('ZRANGEBYSCORE', account.open, '-inf', text(now), 'LIMIT', 0, MOST_RECLAIMED)
  for _, exchange in ipairs(expired) do need(account, '@' .. exchange) end
  if #fields == 0 then return end
  local values = call('HMGET', account.hash, unpack(fields))
  for n, field in ipairs(fields) do
    local value = values[n]
    if value then
      if byte(field) == AT then
        local exchange, record = sub(field, 2), {}
        for dimension, grains in gmatch(value, '(%S+) (%d+)') do record[dimension] = tonumber(grains) end
        account.records[exchange], account.stored[exchange] = record, true
      else
        read_bucket(account, field, value)
      end
    end
  end
  if #expired > 0 then reclaim(account, expired) end
end

local function bounded(taken, capacity, tick)
  if tick > 0 then taken = min(taken, 2 * capacity * GRAINS) end
  return max(0, taken)
end

local function still_taken(account, dimension, capacity, tick, now)
  local taken = account.taken[dimension]
  if not taken or tick == 0 then return taken or 0 end
  local elapsed = max(0, floor(now / tick) - account.at[dimension])
  return max(0, bounded(taken, capacity, tick) - capacity * elapsed)
end

local function put(account, dimension, taken, capacity, tick, now)
  account.taken[dimension], account.at[dimension] = taken, tick > 0 and floor(now / tick) or 0
  account.dirty[dimension] = true
  account.alive = max(account.alive, ceil(ceil(taken / capacity) * tick / 1000))
end

-- Let both keys live as long as needed at least, and equally long: a lease list that expired before its account would
-- never give back what crashed workers took. `joined`: the list may be new, and live for ever.
local function keep(account, joined)
  local left = call('PTTL', account.hash)
  local extend = left < account.alive
  if extend then
    left = account.alive + MARGIN_MS
    call('PEXPIRE', account.hash, text(left))
  end
  if extend or joined then call('PEXPIRE', account.open, text(left + 1000)) end
end

local function save(account, lease_ends)
  local writes, gone, ended, leases = {}, {}, {}, {}
  for field in pairs(account.dirty) do
    if byte(field) ~= AT then
      writes[#writes + 1] = field
      writes[#writes + 1] = format('%.0f %.0f', account.taken[field], account.at[field])
    else
      local exchange = sub(field, 2)
      local record = account.records[exchange]
      if record then
        local held = {}
        for dimension, grains in pairs(record) do held[#held + 1] = format('%s %.0f', dimension, grains) end
        writes[#writes + 1] = field
        writes[#writes + 1] = table.concat(held, ' ')
        if account.leased[exchange] then
          leases[#leases + 1] = lease_ends
          leases[#leases + 1] = exchange
        end
      elseif account.stored[exchange] then
        gone[#gone + 1] = field
        ended[#ended + 1] = exchange
      end
    end
  end
  if #gone > 0 then
    call('HDEL', account.hash, unpack(gone))
    call('ZREM', account.open, unpack(ended))
  end
  if #leases > 0 then call('ZADD', account.open, unpack(leases)) end
  if #writes > 0 then
    call('HSET', account.hash, unpack(writes))
    keep(account, #leases > 0)
  end
end
