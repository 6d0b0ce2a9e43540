-- Carry out the steps that exchanges asked for in one turn of a worker's loop, one after another, each by itself: what
-- one account holds that is no account fails the steps that need it, and no other.
-- KEYS: two per account. ARGV[1], as JSON: lease in microseconds; now in microseconds (false: Redis time); per quota its
--   account, dimension, capacity in permits and tick in microseconds (0: slots); per step its mode, exchange id ('' holds
--   nothing), and per charge the quota and permits.
--     take: every charge that the exchange does not hold yet, or none.  debit: whatever the levels.  look: nothing.
--     settle: put what was really used in place of what was taken, and forget that it was taken: once. What is not named
--       stays held.
-- Reply: per step what is missing from the bucket of each charge, in grains, and then 1 if it was granted, else 0; of
--   `settle` how many of the charges the exchange held. Of one that failed, why.

local lease, now, quotas, steps = unpack(cjson.decode(ARGV[1]))
now = microseconds(now)

local accounts = {}
for n = 1, #KEYS, 2 do accounts[#accounts + 1] = new_account(KEYS[n], KEYS[n + 1]) end
for n, quota in ipairs(quotas) do
  local account = accounts[quota[1]]
  quotas[n] = { account = account, dimension = quota[2], capacity = quota[3], tick = quota[4] }
  need(account, quota[2])
end
for _, step in ipairs(steps) do
  if step[2] ~= '' then
    local field = '@' .. step[2]
    for n = 3, #step, 2 do need(quotas[step[n]].account, field) end
  end
end
for _, account in ipairs(accounts) do
  local sound, fault = pcall(load, account, now)
  if not sound then account.fault = type(fault) == 'table' and fault.err or fault end
end

local function settle(exchange, step)
  local found, fault = 0, nil
  for n = 3, #step, 2 do
    local quota = quotas[step[n]]
    local account, dimension, capacity, tick = quota.account, quota.dimension, quota.capacity, quota.tick
    fault = fault or account.fault
    local record = account.records[exchange]
    if record and record[dimension] then
      found = found + 1
      local used = tick > 0 and step[n + 1] * GRAINS or 0
      local before = still_taken(account, dimension, capacity, tick, now)
      put(account, dimension, bounded(before - record[dimension] + used, capacity, tick), capacity, tick, now)
      record[dimension] = nil
      if not next(record) then account.records[exchange] = nil end
      account.dirty['@' .. exchange] = true
    end
  end
  return fault or { found }
end

local function hold(account, exchange, dimension, grains)
  local record = account.records[exchange]
  if not record then
    record = {}
    account.records[exchange] = record
  end
  record[dimension] = grains
  account.leased[exchange] = true
  account.dirty['@' .. exchange] = true
  account.alive = max(account.alive, ceil(lease / 1000))
end

local function take(mode, exchange, step)
  local missing, granted = {}, true
  for n = 3, #step, 2 do
    local quota = quotas[step[n]]
    local account, dimension, capacity = quota.account, quota.dimension, quota.capacity
    if account.fault then return account.fault end
    local record, grains = account.records[exchange], step[n + 1] * GRAINS
    local taken = still_taken(account, dimension, capacity, quota.tick, now)
    missing[#missing + 1] = taken
    -- What the exchange holds already is a repetition, and takes nothing.
    local over = grains > 0 and taken + grains > capacity * GRAINS and not (record and record[dimension])
    if over and mode ~= 'debit' then granted = false end
  end
  if granted and mode ~= 'look' then
    for n = 3, #step, 2 do
      local quota, position = quotas[step[n]], (n - 1) / 2
      local account, dimension, capacity, tick = quota.account, quota.dimension, quota.capacity, quota.tick
      local record, grains, before = account.records[exchange], step[n + 1] * GRAINS, missing[position]
      if not (record and record[dimension]) then
        local after = bounded(before + grains, capacity, tick)
        if grains > 0 then put(account, dimension, after, capacity, tick, now) end
        if exchange ~= '' then hold(account, exchange, dimension, after - before) end
        missing[position] = after
      end
    end
  end
  missing[#missing + 1] = granted and 1 or 0
  return missing
end

local replies = {}
for n, step in ipairs(steps) do
  local mode, exchange = step[1], step[2]
  replies[n] = mode == 'settle' and settle(exchange, step) or take(mode, exchange, step)
end
for _, account in ipairs(accounts) do
  if not account.fault then save(account, text(now + lease)) end
end
return replies
