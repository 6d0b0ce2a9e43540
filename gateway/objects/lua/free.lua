-- Take entries out. ARGV: for each object its kind, 1 where that is listed, its id or digest. Returns how many there were.
local freed = 0
for at = 1, #ARGV, 3 do
  local kind, name = ARGV[at], ARGV[at + 2]
  if ARGV[at + 1] == '1' then
    freed = freed + redis.call('ZREM', base .. ':k:' .. kind, name)
    redis.call('ZREM', base .. ':x:' .. kind, name)
  else
    for level = 0, levels_of(kind) - 1 do
      freed = freed + redis.call('HDEL', bucket_of(kind, level, name), name)
    end
  end
end
return freed
