-- Carry out the steps that exchanges asked for in one turn of a worker's loop, one after another, each by itself: what
-- one account holds that is no account fails the steps that need it, and no other.
-- KEYS: two per account; one that is of several sets may stand there several times. ARGV[1], packed by turn.py: lease in
--   microseconds; now in microseconds (0: Redis time); number of sets; per set its number of accounts, which are the next
--   of KEYS, and of quotas, and per quota its account, capacity in permits, tick in microseconds (0: slots) and dimension;
--   then per step its set (from 0), mode, exchange ('@' and id; empty holds nothing), and permits per quota of the set.
--     t(ake): every charge that the exchange does not hold yet, or none.  d(ebit): whatever the levels.  l(ook): nothing.
--     s(ettle): put what was really used in place of what was taken, and forget that it was taken: once. What is not
--       named stays held.
-- Reply: per step a byte, 1 if it was granted, of a settlement if the exchange held any of it, else 0; then what is
--   missing from the bucket of each charge, in grains, 8 bytes each. Of a step that failed the byte is 2, then why.

local told = ARGV[1]
local lease, now, count, position = read('<ddB', told)
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local accounts, known, sets, steps = {}, {}, {}, {}
local behind = 0
for s = 1, count do
  local here, number, set = nil, nil, {}
  here, number, position = read('<HH', told, position)
  for n = 1, number do
    local at, capacity, tick, dimension
    at, capacity, tick, dimension, position = read('<HddBc0', told, position)
    at = behind + 2 * at - 1
    local account = known[KEYS[at]]
    if not account then
      account = new_account(KEYS[at], KEYS[at + 1])
      known[KEYS[at]], accounts[#accounts + 1] = account, account
    end
    local bucket = item_of(account, dimension)
    set[n] = { account = account, dimension = dimension, capacity = capacity, tick = tick, bucket = bucket }
  end
  behind, sets[s] = behind + 2 * here, set
end
while position <= #told do
  local number, mode, exchange, permits
  number, mode, exchange, position = read('<Bc1Bc0', told, position)
  local set = sets[number + 1]
  local step = { mode = mode, holds = exchange ~= '', false, false, false, false, false, false }
  for n, quota in ipairs(set) do
    permits, position = read('<d', told, position)
    local at = 3 * n - 2
    step[at], step[at + 1] = quota, permits * GRAINS
    step[at + 2] = step.holds and item_of(quota.account, exchange)
  end
  step.last = 3 * #set
  steps[#steps + 1] = step
end
for _, account in ipairs(accounts) do
  local sound, fault = pcall(load, account, now)
  if not sound then account.fault = type(fault) == 'table' and fault.err or fault end
end

local function bounded(taken, quota)
  if quota.tick > 0 then taken = min(taken, 2 * quota.capacity * GRAINS) end
  return max(0, taken)
end

local function still_taken(quota)
  local taken, tick = quota.bucket.taken, quota.tick
  if taken == 0 or tick == 0 then return taken end
  local elapsed = max(0, floor(now / tick) - quota.bucket.at)
  return max(0, bounded(taken, quota) - quota.capacity * elapsed)
end

local function put(quota, taken)
  local bucket, account, tick = quota.bucket, quota.account, quota.tick
  bucket.taken, bucket.at, bucket.dirty = taken, tick > 0 and floor(now / tick) or 0, true
  account.alive = max(account.alive, ceil(ceil(taken / quota.capacity) * tick / 1000))
end

local function settle(step)
  local found, fault = '\0', nil
  for n = 1, step.last, 3 do
    local quota, exchange = step[n], step[n + 2]
    fault = fault or quota.account.fault
    local held = exchange.held
    local reserved = held and held[quota.dimension]
    if reserved then
      local used = quota.tick > 0 and step[n + 1] or 0
      put(quota, bounded(still_taken(quota) - reserved + used, quota))
      held[quota.dimension], exchange.dirty, found = nil, true, '\1'
    end
  end
  -- What is sound has been settled, and once: to be told of a fault beside it, who asked would do it all again.
  return found == '\0' and fault and '\2' .. fault or found
end

local lease_ends

local function take(step)
  local mode, missing, granted = step.mode, {}, 1
  for n = 1, step.last, 3 do
    local quota, grains, exchange = step[n], step[n + 1], step[n + 2]
    local fault = quota.account.fault
    if fault then return '\2' .. fault end
    local taken = still_taken(quota)
    -- What the exchange holds already is a repetition, and takes nothing.
    if exchange and exchange.held and exchange.held[quota.dimension] then
      step[n + 1] = false
    elseif grains > 0 and taken + grains > quota.capacity * GRAINS and mode ~= 'd' then
      granted = 0
    end
    missing[#missing + 1] = taken
  end
  if granted == 1 and mode ~= 'l' then
    for n = 1, step.last, 3 do
      local quota, grains, exchange = step[n], step[n + 1], step[n + 2]
      if grains then
        local position = (n + 2) / 3
        local before = missing[position]
        local after = bounded(before + grains, quota)
        if grains > 0 then put(quota, after) end
        if exchange then
          exchange.held = exchange.held or {}
          exchange.held[quota.dimension], exchange.dirty, exchange.leased = after - before, true, true
          quota.account.alive = max(quota.account.alive, ceil(lease / 1000))
          lease_ends = lease_ends or string.format('%.0f', now + lease)
        end
        missing[position] = after
      end
    end
  end
  return pack('<B' .. string.rep('i8', #missing), granted, unpack(missing))
end

for n, step in ipairs(steps) do
  steps[n] = step.mode == 's' and settle(step) or take(step)
end
for _, account in ipairs(accounts) do
  if not account.fault then save(account, lease_ends) end
end
return steps
