-- A tenant is in force. ARGV: a mark, in case that there is none; the mark that is remembered, or ''; 1: all that it makes
-- has been recorded and will be, 0: not all, '': whatever is known of that; 1: what was lost is acknowledged.
-- Returns the mark, since when entries are lost, or '', and what the server does when its memory is full, or ''. A mark is
-- a word, and behind a dash how many objects have ever been recorded since it was made: of less than are remembered, the
-- last have been lost.
local about = base .. ':m'
local mark, acknowledged = unpack(redis.call('HMGET', about, 'mark', 'acknowledged'))
local remembered, before = string.match(ARGV[2], '^(.*)%-(%d+)$')
if not remembered then remembered, before = ARGV[2], 0 end
local fell = mark and mark == remembered and made_so_far() < tonumber(before)
local lost = fell or (remembered ~= '' and mark ~= remembered and not acknowledged)
if not mark or fell or ARGV[4] == '1' then
  mark = ARGV[1]
  redis.call('HSET', about, 'mark', mark)
end
if fell then
  redis.call('HDEL', about, 'acknowledged')
  redis.call('HSET', about, 'recorded', '0')
end
if lost then
  redis.call('HSETNX', about, 'lost', now)
end
if ARGV[3] == '0' or (ARGV[3] == '1' and lost) then
  redis.call('HSET', about, 'recorded', '0')
elseif ARGV[3] == '1' then
  redis.call('HSETNX', about, 'recorded', '1')
end
if ARGV[4] == '1' then
  -- Also before anybody has noticed that something was lost: who remembers another mark comes later.
  redis.call('HDEL', about, 'lost')
  redis.call('HSET', about, 'acknowledged', now)
  redis.call('HSETNX', about, 'recorded', '0')
end
-- A login may not be allowed to ask; then nobody knows.
local told = redis.pcall('INFO', 'memory')
local policy = type(told) == 'string' and string.match(told, 'maxmemory:[1-9].*maxmemory_policy:([%w-]+)') or ''
return {mark .. '-' .. made_so_far(), redis.call('HGET', about, 'lost') or '', policy}
