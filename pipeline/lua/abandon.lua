-- Forget a batch that was never opened.
-- KEYS: host, total, open, then every key of the batch.  ARGV: batch id, host.
-- Gives 1, or 0 where files are being counted or the batch is another host's.
if redis.call('GET', KEYS[1]) ~= ARGV[2] or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
