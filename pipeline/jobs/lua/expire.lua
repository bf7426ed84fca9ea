-- Have a batch finished that is open here and finished in PostgreSQL: its host deletes its scratch and keys.
-- KEYS: open, finishing, host.  ARGV: batch id, when it was opened as it was seen, host as it was seen.
-- Gives 1, or 0 where it has been opened again or moved since.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
