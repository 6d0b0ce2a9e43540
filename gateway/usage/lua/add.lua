-- Count a batch once, in its hour and in its day.
-- KEYS: batch, hour, day.
-- ARGV: seconds to keep the batch, the hour, the day; most entries; then per entry its name, the name that stands in
-- for it when there are too many, the number of its counters, and pairs of counter and amount.
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
for n = 2, 3 do
  local key, at = KEYS[n], 5
  local entries, new = tonumber(redis.call('HGET', key, 'entries') or 0), 0
  while at <= #ARGV do
    local name, last = ARGV[at], at + 2 + 2 * tonumber(ARGV[at + 2])
    if redis.call('HEXISTS', key, name .. ':requests') == 0 then
      if entries + new < tonumber(ARGV[4]) then new = new + 1 else name = ARGV[at + 1] end
    end
    for i = at + 3, last, 2 do redis.call('HINCRBY', key, name .. ':' .. ARGV[i], ARGV[i + 1]) end
    at = last + 1
  end
  if new > 0 then redis.call('HINCRBY', key, 'entries', new) end
  redis.call('EXPIRE', key, ARGV[n])
end
return 1
