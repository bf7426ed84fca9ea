-- Queue an archive that nobody works on.
-- KEYS: host, finishing, unpack queue.  ARGV: batch id, unpack job.
-- Gives 1, or 0 where a host has the batch open, or it is being finished.
if (redis.call('GET', KEYS[1]) or '') ~= '' or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('RPUSH', KEYS[3], ARGV[2])
return 1
