-- Look through digests. ARGV: kind; level; the first bucket; how many of them.
-- Returns how many levels there are, digests and days in turn.
local found = {}
for number = tonumber(ARGV[3]), tonumber(ARGV[3]) + tonumber(ARGV[4]) - 1 do
  local entries = redis.call('HGETALL', base .. ':d:' .. ARGV[1] .. ':' .. ARGV[2] .. ':' .. number)
  for n = 1, #entries, 2 do
    if counts(entries[n + 1]) then
      found[#found + 1] = entries[n]
      found[#found + 1] = entries[n + 1]
    end
  end
end
return {levels_of(ARGV[1]), found}
