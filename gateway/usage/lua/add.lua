-- Count a batch once, in its hour and in its day.
-- KEYS: batch, hour, day.
-- ARGV: seconds to keep the batch, the hour, the day; most fields; then per entry its name, the name that stands in
-- for it when there are too many, the number of its counters, and pairs of counter and amount.
if not redis.call('SET', KEYS[1], 1, 'NX', 'EX', ARGV[1]) then return 0 end
for n = 2, 3 do
  local key, at = KEYS[n], 5
  local full = redis.call('HLEN', key) >= tonumber(ARGV[4])
  while at <= #ARGV do
    local name, last = ARGV[at], at + 2 + 2 * tonumber(ARGV[at + 2])
    if full and redis.call('HEXISTS', key, name .. ':requests') == 0 then name = ARGV[at + 1] end
    for i = at + 3, last, 2 do redis.call('HINCRBY', key, name .. ':' .. ARGV[i], ARGV[i + 1]) end
    at = last + 1
  end
  redis.call('EXPIRE', key, ARGV[n])
end
return 1
