-- How many entries of a listed kind there are. ARGV: kind.
return redis.call('ZCARD', base .. ':k:' .. ARGV[1])
