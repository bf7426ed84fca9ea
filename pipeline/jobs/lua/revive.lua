-- Take a dead letter out and, where a job is given, queue it again.
-- KEYS: dead, queue.  ARGV: dead letter, job (or '').
-- Gives 1, or 0 where the dead letter is gone already.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' then redis.call('RPUSH', KEYS[2], ARGV[2]) end
return 1
