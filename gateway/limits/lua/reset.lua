-- Fill every bucket of one account and forget its open exchanges.

redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
