-- Take entries out. ARGV: 1: those alone that are no longer new, and do not go by themselves; 0: all. Then for each object
-- its kind, 1 where that is listed, its id or digest. Returns how many there were.
local function stays(kind, listed, name)
  if listed == '1' then
    local score = redis.call('ZSCORE', base .. ':k:' .. kind, name)
    return score and tonumber(score) > now - NEW
  end
  for level = 0, levels_of(kind) - 1 do
    local day = redis.call('HGET', bucket_of(kind, level, name), name)
    if day and day ~= '0' then return true end
  end
  local since = redis.call('ZSCORE', base .. ':n', name)
  return since and tonumber(since) > now - NEW
end

local freed = 0
for at = 2, #ARGV, 3 do
  local kind, name = ARGV[at], ARGV[at + 2]
  if ARGV[1] == '1' and stays(kind, ARGV[at + 1], name) then
    -- It comes to be seen, or goes.
  elseif ARGV[at + 1] == '1' then
    freed = freed + redis.call('ZREM', base .. ':k:' .. kind, name)
    redis.call('ZREM', base .. ':x:' .. kind, name)
  else
    for level = 0, levels_of(kind) - 1 do
      freed = freed + redis.call('HDEL', bucket_of(kind, level, name), name)
    end
  end
end
return freed
