-- Carry out the steps that exchanges asked for in one turn of a worker's loop, one after another, each by itself: what
-- one account holds that is no account fails the steps that need it, and no other.
-- KEYS: two per account; one that is of several sets may stand there several times; then the receipt, if there is one.
-- ARGV[1], packed by turn.py: lease in microseconds; now in microseconds (0: Redis time); number of the turn (0: leaves no
--   receipt; below 0: undoes steps of that one); number of sets; per set its number of accounts, which are the next of KEYS, and of quotas,
--   and per quota its account, capacity in permits, tick in microseconds (0: slots) and dimension;
--   then per step its set (from 0), mode, exchange ('@' and id; empty holds nothing), and permits per quota of the set.
--     t(ake): every charge that the exchange does not hold yet, or none.  d(ebit): whatever the levels.  l(ook): nothing.
--     s(ettle): put what was really used in place of what was taken, and forget that it was taken: once. What is not
--       named stays held.
--     g(ive back): settle what was never used; what is not held has not been taken yet, and will not be.
--     u(ndo): give back what a step took for good, which is named by its place in the receipt ('#' and that), once.
-- Steps that take for good leave a receipt: number of the turn, and a byte for each, 1 if it took something. Who undoes one
-- that is not there leaves an empty one, and such steps, should they come after all, are not carried out.
-- Reply: per step a byte, 1 if it was granted, of a settlement if the exchange held any of it, else 0; then what is
--   missing from the bucket of each charge, in grains, 8 bytes each. Of a step that failed the byte is 2, then why.

local RECEIPT_MS = '30000'
local GIVEN_BACK = '\2given back before it came'

local told = ARGV[1]
local lease, now, turn, count, after_head = read('<dddB', told)
local receipt, mark = KEYS[#KEYS], string.sub(told, 17, 24)
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local accounts, steps

local function prepare()
  local position, known, sets = after_head, {}, {}
  local behind = 0
  accounts, steps = {}, {}
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
      if not SERVED[dimension] then account.reclaims = true end
      set[n] = {
        account = account, dimension = dimension, capacity = capacity, tick = tick,
        at = tick > 0 and floor(now / tick) or now, bucket = item_of(account, dimension),
      }
    end
    behind, sets[s] = behind + 2 * here, set
  end
  while position <= #told do
    local number, mode, exchange, permits
    number, mode, exchange, position = read('<Bc1Bc0', told, position)
    local set = sets[number + 1]
    local step = { mode = mode, exchange = exchange, false, false, false, false, false, false }
    local holds = exchange ~= '' and mode ~= 'u'
    for n, quota in ipairs(set) do
      permits, position = read('<d', told, position)
      local at = 3 * n - 2
      step[at], step[at + 1] = quota, permits * GRAINS
      if holds then
        step[at + 2] = item_of(quota.account, exchange)
        quota.account.reclaims = true
      end
      if mode == 'g' then item_of(quota.account, '@~' .. string.sub(exchange, 2)) end
    end
    step.last = 3 * #set
    steps[#steps + 1] = step
  end
  for _, account in ipairs(accounts) do
    local sound, fault = pcall(load, account, now)
    if not sound then account.fault = type(fault) == 'table' and fault.err or fault end
  end
end

local function still_taken(quota)
  local bucket = quota.bucket
  local elapsed = quota.at - bucket.at
  if elapsed < 0 then
    -- The clock has gone back: from now on it is refilled, and not when the time comes that it has seen.
    bucket.at, bucket.dirty, quota.account.went_back = quota.at, true, true
  end
  local taken = bucket.taken
  if taken == 0 or quota.tick == 0 or elapsed <= 0 then return taken end
  return max(0, taken - quota.capacity * elapsed)
end

local function put(quota, taken)
  local bucket, account = quota.bucket, quota.account
  taken = max(0, min(taken, MOST_GRAINS))
  bucket.taken, bucket.at, bucket.dirty = taken, quota.at, true
  account.alive = max(account.alive, ceil(ceil(taken / quota.capacity) * quota.tick / 1000))
  return taken
end

local lease_ends

local function hold(quota, exchange, dimension, grains)
  exchange.held = exchange.held or {}
  exchange.held[dimension], exchange.dirty, exchange.leased = grains, true, true
  quota.account.alive = max(quota.account.alive, ceil(lease / 1000))
  lease_ends = lease_ends or string.format('%.0f', now + lease)
end

local function settle(step)
  local found, fault = '\0', nil
  for n = 1, step.last, 3 do
    local quota, exchange = step[n], step[n + 2]
    fault = fault or quota.account.fault
    local reserved = exchange.held and exchange.held[quota.dimension]
    if step.mode == 'g' and not reserved and not fault then
      local kept = quota.account.items['@~' .. string.sub(step.exchange, 2)]
      reserved = kept.held and kept.held[quota.dimension]
      if reserved then
        exchange = kept
      else
        hold(quota, exchange, '!' .. quota.dimension, 0)
      end
    end
    if reserved then
      local used = quota.tick > 0 and step[n + 1] or 0
      put(quota, still_taken(quota) - reserved + used)
      exchange.held[quota.dimension], exchange.dirty, found = nil, true, '\1'
    end
  end
  -- What is sound has been settled, and once: to be told of a fault beside it, who asked would do it all again.
  return found == '\0' and fault and '\2' .. fault or found
end

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
    elseif mode == 't' then
      if grains > 0 and taken + grains > quota.capacity * GRAINS then granted = 0 end
      if exchange and exchange.given_back and exchange.held['!' .. quota.dimension] then return GIVEN_BACK end
    elseif mode == 'l' and grains > 0 and taken + grains > quota.capacity * GRAINS then
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
        local after = grains > 0 and put(quota, before + grains) or before
        if exchange then hold(quota, exchange, quota.dimension, after - before) end
        missing[position] = after
      end
    end
  end
  return pack('<B' .. string.rep('i8', #missing), granted, unpack(missing))
end

-- What each step comes to, and what of that the receipt says. `late`: what is taken for good has been undone already.
local function perform(late)
  local outcomes, taken = {}, {}
  for n, step in ipairs(steps) do
    local mode = step.mode
    if mode == 's' or mode == 'g' then
      outcomes[n] = settle(step)
    else
      local for_good = step.exchange == '' and mode ~= 'l'
      local outcome = for_good and late and GIVEN_BACK or take(step)
      if for_good then taken[#taken + 1] = string.sub(outcome, 1, 1) end
      outcomes[n] = outcome
    end
  end
  return outcomes, table.concat(taken)
end

local function undo()
  mark = pack('<d', -turn)
  local left, outcomes = call('GET', receipt) or mark, {}
  local is_later = read('<d', left) > -turn -- and what came of this one is forgotten
  if is_later or string.sub(left, 1, 8) ~= mark then left = is_later and '' or mark end
  for n, step in ipairs(steps) do
    local place, fault = 8 + string.byte(step.exchange, 2), nil
    outcomes[n] = '\0'
    if string.byte(left, place) == 1 then
      for at = 1, step.last, 3 do fault = fault or step[at].account.fault end
      if fault then
        outcomes[n] = '\2' .. fault
      else
        for at = 1, step.last, 3 do put(step[at], still_taken(step[at]) - step[at + 1]) end
        left = string.sub(left, 1, place - 1) .. '\0' .. string.sub(left, place + 1)
        outcomes[n] = '\1'
      end
    end
  end
  if not is_later then call('SET', receipt, left, 'PX', RECEIPT_MS) end
  return outcomes
end

prepare()
local outcomes, taken
if turn < 0 then
  outcomes = undo()
else
  outcomes, taken = perform(false)
  if turn > 0 then
    local before = call('SET', receipt, mark .. taken, 'PX', RECEIPT_MS, 'GET')
    if before and string.sub(before, 1, 8) == mark then
      call('SET', receipt, before, 'PX', RECEIPT_MS)
      prepare()
      outcomes = perform(true)
    end
  end
end
for _, account in ipairs(accounts) do
  if account.went_back or account.leases then lease_ends = lease_ends or string.format('%.0f', now + lease) end
  if not account.fault then save(account, lease_ends) end
end
return outcomes
