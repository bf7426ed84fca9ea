-- Move a job that cannot succeed to the dead letters.
-- KEYS: working list, attempts, dead.  ARGV: job, dead letter.
-- Gives 1, or 0 where the job is no longer in this worker's list.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], ARGV[2])
return 1
