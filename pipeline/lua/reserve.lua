-- Give a transfer job its batch id: the one that it has, or the proposed one where that is free.
-- KEYS: assigned ids, reservation of the proposed id.  ARGV: job, proposed id, seconds that it stays reserved.
-- Gives the id, or nothing where the proposed one is taken.
local assigned = redis.call('HGET', KEYS[1], ARGV[1])
if assigned then return assigned end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'EX', ARGV[3]) then return false end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
