-- What is known of a tenant's entries as a whole, and some intents. ARGV: where HSCAN goes on.
-- Returns fields and values of the first, and what HSCAN says.
return {redis.call('HGETALL', base .. ':m'), redis.call('HSCAN', base .. ':i', ARGV[1], 'COUNT', 500)}
