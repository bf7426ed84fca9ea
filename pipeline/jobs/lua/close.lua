-- Forget a finished batch.
-- KEYS: finishing, open, then every key of the batch.  ARGV: batch id, host that finishes it.
-- Gives 1, or 0 where that host is not the one to finish it (or it is done already).
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
