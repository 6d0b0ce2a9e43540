-- What turn and renew share: this text stands before each of them. The arithmetic is that of arithmetic.py, on the same
-- integers; all stay below 2^53, so doubles are exact.
--
-- An account is two keys that expire together, once its buckets are full:
--   a hash        per dimension what is taken, in grains, and as of which tick (two doubles; of slots: microsecond); per
--                 open exchange, under "@ID", each dimension that it holds with its grains (length, name, double). Where a
--                 name begins with '!' the exchange has been given back what it did not hold yet: comes the step that was
--                 to take that after all, it comes too late. Requests are not given back when a lease runs out, but for a
--                 while (ROUNDS leases, counted down as '!') it is known under "@~ID" that they are the exchange's: if the
--                 worker is not dead, but was cut off before it heard of them, it will still give them back.
--   a sorted set  open exchanges, "@ID", by the microsecond in which their lease runs out
-- A script reads the items that it needs of an account once (load), works on those, and writes what has changed once
-- (save). So what one key holds can fail before anything is written, and never after. Values are packed, for writing
-- numbers out and reading them costs Lua more than all the rest.

local call, pack, read = redis.call, struct.pack, struct.unpack
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local GRAINS = 60000
local MOST_GRAINS = 2 ^ 52
local MARGIN_MS = 60000
local MOST_RECLAIMED = '1000'
local SLOTS = 'max_concurrent_requests'
local ROUNDS = 20
local SERVED = { max_requests_per_1_minute = true, max_requests_per_1_day = true }

-- `reclaims`: somebody asks what leases that run out change.
local function new_account(hash, open)
  return { hash = hash, open = open, reclaims = false, alive = 0, fields = {}, items = {} }
end

-- A bucket, or an exchange, whose field begins with '@'. `held` is what it holds here: grains per dimension.
local function item_of(account, field)
  local items = account.items
  local item = items[field]
  if not item then
    item = { taken = 0, at = 0, stored = false, dirty = false, held = false, leased = false }
    items[field] = item
    local n = #items + 1
    items[n], account.fields[n] = item, field
  end
  return item
end

local function take_up(item, field, value)
  item.stored = true
  if string.byte(field) ~= 64 then
    if #value ~= 16 then error('bad argument: no bucket', 0) end
    item.taken, item.at = read('<dd', value)
    return
  end
  local held, position, dimension = {}, 1, nil
  while position <= #value do
    dimension, held[#held + 1], position = read('<Bc0d', value, position)
    held[dimension], held[#held] = held[#held], nil
  end
  item.held, item.given_back = held, string.find(value, '!', 1, true)
end

local function load(account, now)
  local items, fields = account.items, account.fields
  local expired = {}
  if account.reclaims then
    local now_text = string.format('%.0f', now)
    expired = call('ZRANGEBYSCORE', account.open, '-inf', now_text, 'LIMIT', '0', MOST_RECLAIMED)
  end
  for _, field in ipairs(expired) do item_of(account, field) end
  if #fields == 0 then return end
  local values = call('HMGET', account.hash, unpack(fields))
  for n = 1, #fields do
    if values[n] then take_up(items[n], fields[n], values[n]) end
  end
  -- Give back what exchanges took whose lease has run out: their worker is gone. The requests were made.
  for _, field in ipairs(expired) do
    local exchange, served = items[field], nil
    for dimension, grains in pairs(exchange.held or {}) do
      if SERVED[dimension] then
        served = served or {}
        served[dimension] = grains
      elseif grains > 0 and string.byte(dimension) ~= 33 then
        local bucket = items[dimension]
        if not bucket then
          bucket = item_of(account, dimension)
          local value = call('HGET', account.hash, dimension)
          if value then take_up(bucket, dimension, value) end
        end
        if bucket.stored then bucket.taken, bucket.dirty = max(0, bucket.taken - grains), true end
      end
    end
    local rounds = exchange.held and exchange.held['!'] or ROUNDS
    exchange.held, exchange.stored, exchange.dirty = false, true, true
    if served and rounds > 0 then
      local kept = exchange
      if string.byte(field, 2) ~= 126 then kept = item_of(account, '@~' .. string.sub(field, 2)) end
      served['!'] = rounds - 1
      kept.held, kept.dirty, kept.leased, account.leases = served, true, true, true
    end
  end
end

-- Let both keys live as long as needed at least, and equally long: a lease list that expired before its account would
-- never give back what crashed workers took. `joined`: the list may be new, and live for ever.
local function keep(account, joined)
  local left = call('PTTL', account.hash)
  local extend = left < account.alive
  if extend then
    left = account.alive + MARGIN_MS
    call('PEXPIRE', account.hash, string.format('%.0f', left))
  end
  if extend or joined then call('PEXPIRE', account.open, string.format('%.0f', left + 1000)) end
end

-- The clock has gone back: no lease is longer than one that begins now.
local function shorten_leases(account, lease_ends)
  while true do
    local longer = call('ZRANGEBYSCORE', account.open, '(' .. lease_ends, '+inf', 'LIMIT', '0', MOST_RECLAIMED)
    if #longer == 0 then return end
    local scores = {}
    for n, field in ipairs(longer) do scores[2 * n - 1], scores[2 * n] = lease_ends, field end
    call('ZADD', account.open, unpack(scores))
  end
end

local function save(account, lease_ends)
  if account.went_back then shorten_leases(account, lease_ends) end
  local writes, gone, leases = {}, nil, nil
  local items, fields = account.items, account.fields
  for n = 1, #fields do
    local item, field = items[n], fields[n]
    if item.dirty then
      local value, held = nil, item.held
      if held then
        for dimension, grains in pairs(held) do
          value = (value or '') .. pack('<Bc0d', #dimension, dimension, grains)
        end
        if value and item.leased then
          leases = leases or {}
          leases[#leases + 1], leases[#leases + 2] = lease_ends, field
        end
      elseif string.byte(field) ~= 64 then
        value = pack('<dd', item.taken, item.at)
      end
      if value then
        writes[#writes + 1], writes[#writes + 2] = field, value
      elseif item.stored then
        gone = gone or {}
        gone[#gone + 1] = field
      end
    end
  end
  if gone then
    call('HDEL', account.hash, unpack(gone))
    call('ZREM', account.open, unpack(gone))
  end
  if leases then call('ZADD', account.open, unpack(leases)) end
  if #writes > 0 then
    call('HSET', account.hash, unpack(writes))
    keep(account, leases)
  end
end
