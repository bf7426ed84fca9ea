-- Give a transfer job its batch id: the one that it has, or the proposed one where that is free.
-- KEYS: working list, assigned ids, reservation of the proposed id.
-- ARGV: job, proposed id, seconds that it stays reserved (0: the id is known to be the job's).
-- Gives the id, nothing where the proposed one is taken, or 'lost' where the job is no longer in this worker's list:
-- whoever has it may have settled it, and then another id would make a second batch of the same archive.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 'lost' end
if ARGV[3] ~= '0' then
  local assigned = redis.call('HGET', KEYS[2], ARGV[1])
  if assigned then return assigned end
  if not redis.call('SET', KEYS[3], ARGV[1], 'NX', 'EX', ARGV[3]) then return false end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return ARGV[2]
