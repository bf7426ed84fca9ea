-- Acknowledge a finished job and, in the same step, hand the work on.
-- KEYS: working list, attempts, batch ids, next queue, hash of notes.
-- ARGV: job, next job (or ''), field (or '') and value of the note.
-- Gives 1, or 0 where the job is no longer in this worker's list: then nothing changes.
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[2] ~= '' then redis.call('RPUSH', KEYS[4], ARGV[2]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[5], ARGV[3], ARGV[4]) end
return 1
