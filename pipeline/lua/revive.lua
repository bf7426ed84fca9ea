-- Take a dead letter out and, where a queue is given, put its job there again.
-- KEYS: dead, queue (or '').  ARGV: letter, job.
-- Gives 1, or 0 where the letter is gone already.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if KEYS[2] ~= '' then redis.call('RPUSH', KEYS[2], ARGV[2]) end
return 1
