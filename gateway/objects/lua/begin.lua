-- A tenant is in force. ARGV: a mark, in case that there is none; the mark that is remembered, or ''; 1: all that it makes
-- has been recorded and will be, 0: not all, '': whatever is known of that; 1: what was lost is acknowledged.
-- Returns the mark, and since when entries are lost, or ''.
local about = base .. ':m'
local mark, acknowledged = unpack(redis.call('HMGET', about, 'mark', 'acknowledged'))
local lost = ARGV[2] ~= '' and mark ~= ARGV[2] and not acknowledged
if not mark then
  mark = ARGV[1]
  redis.call('HSET', about, 'mark', mark)
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
return {mark, redis.call('HGET', about, 'lost') or ''}
