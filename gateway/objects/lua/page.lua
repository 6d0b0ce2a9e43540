-- Some entries of a listed kind. ARGV: kind; 1: oldest first; the score behind which they begin, or ''; how many; an id, of
-- which alone the score is wanted, or ''. Returns ids and scores in turn.
local key = base .. ':k:' .. ARGV[1]
if ARGV[5] ~= '' then
  local score = redis.call('ZSCORE', key, ARGV[5])
  return score and {ARGV[5], score} or {}
end
local from = ARGV[3] ~= '' and '(' .. ARGV[3]
if ARGV[2] == '1' then
  return redis.call('ZRANGEBYSCORE', key, from or '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
end
return redis.call('ZREVRANGEBYSCORE', key, from or '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
