-- Queue an archive that nobody works on.
-- KEYS: host, finishing, unpack queue.  ARGV: batch id, unpack job.
-- Gives 1, or 0 where the batch is open or being finished.
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('RPUSH', KEYS[3], ARGV[2])
return 1
