-- Queue one converted file for transcription, once for each opening of its batch.
-- KEYS: host, queued, transcribe queue, moved.  ARGV: host, filename, job.
-- Gives 1, 0 where it was queued before, or -1 where the batch is another host's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('SADD', KEYS[2], ARGV[2]) == 0 then return 0 end
redis.call('RPUSH', KEYS[3], ARGV[3])
redis.call('SET', KEYS[4], redis.call('TIME')[1])
return 1
