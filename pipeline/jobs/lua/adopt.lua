-- Make a batch this host's own before its archive is fetched.
-- KEYS: host, s3_key, job, total, processed, failed, settled, queued, moved, open, finishing, and the working list
-- that must hold the job, where one is given.
-- ARGV: batch id, host, s3_key, unpack job.
-- Gives 'lost' where that list does not hold it, 'finishing' where every file is settled already, else 'adopted'. A
-- batch of another host starts again: what that host still has queued is no longer counted.
if KEYS[12] and not redis.call('LPOS', KEYS[12], ARGV[4]) then return 'lost' end
if redis.call('HEXISTS', KEYS[11], ARGV[1]) == 1 then return 'finishing' end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  redis.call('DEL', KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[3], ARGV[4])
redis.call('SET', KEYS[9], redis.call('TIME')[1])
redis.call('ZADD', KEYS[10], 'NX', redis.call('TIME')[1], ARGV[1])
return 'adopted'
