-- Note which batch a transfer job brings, until it is settled.
-- KEYS: working list, batch ids.  ARGV: job, batch id.
-- Gives 1, or 0 where the job is no longer in this worker's list: whoever has it may have settled it already.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
