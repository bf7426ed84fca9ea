-- Queue a remote file that the watch has found, once for each state (size and time) of it.
-- KEYS: seen, transfer queue.  ARGV: remote path, state, job.
-- Gives 1 where it was queued. A file queued by hand reads 'queued' until its transfer has seen its state.
local seen = redis.call('HGET', KEYS[1], ARGV[1])
if seen == ARGV[2] or seen == 'queued' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('RPUSH', KEYS[2], ARGV[3])
return 1
