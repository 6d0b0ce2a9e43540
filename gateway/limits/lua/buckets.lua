-- What the scripts share: this text stands before each of them. The arithmetic is that of arithmetic.py, on the same
-- integers; all stay below 2^53, so doubles are exact.
--
-- An account is two keys that expire together, once its buckets are full:
--   KEYS[2n-1]  hash: per dimension "TAKEN TICK" in grains, per open exchange "@ID" = "DIMENSION GRAINS ..."
--   KEYS[2n]    sorted set: open exchange ids by the microsecond in which their lease runs out

local call, format, match = redis.call, string.format, string.match
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min

local GRAINS = 60000
local SLOTS = 'max_concurrent_requests'
local MARGIN_MS = 60000
local MOST_RECLAIMED = 1000

local function microseconds(given)
  if given ~= '' then return tonumber(given) end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function text(number) return format('%.0f', number) end

local function bounded(taken, capacity, tick)
  if tick > 0 then taken = min(taken, 2 * capacity * GRAINS) end
  return max(0, taken)
end

local function still_taken(bucket, capacity, tick, now)
  if not bucket then return 0 end
  local taken, at = match(bucket, '^(%d+) (%d+)$')
  taken, at = tonumber(taken), tonumber(at)
  if tick == 0 then return taken end
  local elapsed = max(0, floor(now / tick) - at)
  return max(0, bounded(taken, capacity, tick) - capacity * elapsed)
end

local function bucket_text(taken, tick, now)
  return format('%.0f %.0f', taken, tick > 0 and floor(now / tick) or 0)
end

local function milliseconds_to_full(taken, capacity, tick)
  return ceil(ceil(taken / capacity) * tick / 1000)
end

-- Let both keys live this long at least, and equally long: a lease list that expired before its account would
-- never give back what crashed workers took. `joined`: the list may be new, and live for ever.
local function keep(account, open, milliseconds, joined)
  local left = call('PTTL', account)
  local extend = left < milliseconds
  if extend then
    left = milliseconds + MARGIN_MS
    call('PEXPIRE', account, text(left))
  end
  if extend or joined then call('PEXPIRE', open, text(left + 1000)) end
end

-- Give back what exchanges took whose lease has run out: their worker is gone.
local function reclaim(account, open, now)
  local expired = call('ZRANGEBYSCORE', open, '-inf', text(now), 'LIMIT', 0, MOST_RECLAIMED)
  if #expired == 0 then return end
  local fields = {}
  for n, exchange in ipairs(expired) do fields[n] = '@' .. exchange end
  local back = {}
  for _, record in ipairs(call('HMGET', account, unpack(fields))) do
    for dimension, grains in string.gmatch(record or '', '(%S+) (%d+)') do
      back[dimension] = (back[dimension] or 0) + tonumber(grains)
    end
  end
  for dimension, grains in pairs(back) do
    local bucket = call('HGET', account, dimension)
    if bucket then
      local taken, at = match(bucket, '^(%d+) (%d+)$')
      call('HSET', account, dimension, text(max(0, tonumber(taken) - grains)) .. ' ' .. at)
    end
  end
  call('HDEL', account, unpack(fields))
  call('ZREM', open, unpack(expired))
end
