-- Let open exchanges of one account live for another lease.
-- ARGV: lease in microseconds, now in microseconds ('': Redis time), then exchange ids.
-- Reply: the ids that are not open.

local lease, now = tonumber(ARGV[1]), microseconds(tonumber(ARGV[2]))
local account = new_account(KEYS[1], KEYS[2])
load(account, now)
save(account)

local until_text, missing, scores = text(now + lease), {}, {}
local exchanges = {}
for n = 3, #ARGV do exchanges[n - 2] = ARGV[n] end

for n, score in ipairs(call('ZMSCORE', KEYS[2], unpack(exchanges))) do
  if score then
    scores[#scores + 1] = until_text
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
