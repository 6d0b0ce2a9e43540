-- Remember who made objects, and let each be counted once.
-- KEYS: objects. ARGV: seconds to keep them; then for each its step (note, claim, or known: claim if it is remembered),
-- the exchange that takes it, the maker, and what that exchange was counted with.
-- For each: of a claim that is the first what is remembered, of a note that came too late an empty record, else nothing.
local found = {}
for n, key in ipairs(KEYS) do
  local at = 4 * n - 2
  local step, exchange, maker, part = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local counted = redis.call('HGET', key, 'counted')
  found[n] = false
  if step == 'note' then
    redis.call('HSETNX', key, 'maker', maker)
    if redis.call('HSETNX', key, 'part:' .. exchange, part) == 1 and counted then found[n] = {} end
  elseif counted == exchange then
    found[n] = redis.call('HGETALL', key)
  elseif not counted and (step == 'claim' or redis.call('EXISTS', key) == 1) then
    redis.call('HSETNX', key, 'maker', maker)
    redis.call('HSET', key, 'counted', exchange)
    found[n] = redis.call('HGETALL', key)
  end
  redis.call('EXPIRE', key, ARGV[1])
end
return found
