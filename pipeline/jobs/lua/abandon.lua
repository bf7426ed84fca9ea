-- Forget a batch whose archive is failed permanently, whichever host has it: what that host still has queued counts no more.
-- KEYS: host, total, open, finishing, working list of the job, then every key of the batch.
-- ARGV: batch id, host, job.
-- Gives 1, also where there is no such batch, or 0 where this host counts its files, where all of them are settled,
-- or where the job is no longer in this worker's list.
if not redis.call('LPOS', KEYS[5], ARGV[3]) or redis.call('HEXISTS', KEYS[4], ARGV[1]) == 1 then return 0 end
if redis.call('GET', KEYS[1]) == ARGV[2] and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for i = 6, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
