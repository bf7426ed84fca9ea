-- Queue the archive of a lost host's batch again, for whichever host unpacks next.
-- KEYS: host, job, hosts, unpack queue.  ARGV: lost host, seconds of silence that make it lost.
-- Gives 1, or 0 where the batch has changed hands or its host is heard again.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local seen = redis.call('ZSCORE', KEYS[3], ARGV[1])
if seen and redis.call('TIME')[1] - seen < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], '')
redis.call('RPUSH', KEYS[4], redis.call('GET', KEYS[2]))
return 1
