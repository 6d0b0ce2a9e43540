-- Let open exchanges of one account live for another lease.
-- ARGV: lease in microseconds, now in microseconds ('': Redis time), then exchanges, "@ID".
-- Reply: which of them are not open.

local lease, now = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local lease_ends, missing, scores = string.format('%.0f', now + lease), {}, {}
local account = new_account(KEYS[1], KEYS[2])
local slots = item_of(account, SLOTS)
account.reclaims = true
load(account, now)
account.went_back = true -- perhaps
-- Slots are as they are as of now: should the clock go back, it shows.
slots.at, slots.dirty = now, slots.stored
save(account, lease_ends)

local exchanges = {}
for n = 3, #ARGV do exchanges[n - 2] = ARGV[n] end

for n, score in ipairs(call('ZMSCORE', KEYS[2], unpack(exchanges))) do
  if score then
    scores[#scores + 1] = lease_ends
    scores[#scores + 1] = exchanges[n]
  else
    missing[#missing + 1] = exchanges[n]
  end
end

if #scores > 0 then
  call('ZADD', KEYS[2], unpack(scores))
  account.alive = ceil(lease / 1000)
  keep(account, false)
end
return missing
