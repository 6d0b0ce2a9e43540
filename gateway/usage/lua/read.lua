-- Counters under these keys, a bite at a time: what was looked at, and the cursor with which the last key goes on, or 0.
-- KEYS: hashes. ARGV: the cursor at which the first of them goes on; how many fields to look at; what those that are
-- wanted begin with.
local cursor, looked, found = ARGV[1], 0, {}
for n, key in ipairs(KEYS) do
  local wanted = {}
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', 100)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      if string.sub(page[2][i], 1, #ARGV[3]) == ARGV[3] then
        wanted[#wanted + 1] = page[2][i]
        wanted[#wanted + 1] = page[2][i + 1]
      end
    end
    looked = looked + #page[2] / 2 + 1
  until cursor == '0' or looked >= tonumber(ARGV[2])
  found[n] = wanted
  if looked >= tonumber(ARGV[2]) then break end
end
return {cursor, found}
