-- Forget a worker that ends with nothing in progress.
-- KEYS: working list, workers, heartbeat.  ARGV: worker id.
-- Gives 1, or 0 where its list holds jobs: then others must go on knowing of it.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[3])
return redis.call('ZREM', KEYS[2], ARGV[1])
