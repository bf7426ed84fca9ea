-- Count one delivery of a job before the work on it starts.
-- KEYS: working list, attempts, workers.
-- ARGV: job, token of this delivery (a repeated call counts once), worker: a Redis that was wiped while it waited
-- for the job has forgotten it.
-- Gives the number of attempts so far, or 0 where the job is no longer in this worker's list.
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[3], redis.call('TIME')[1], ARGV[3])
local count, token = 0, ''
local seen = redis.call('HGET', KEYS[2], ARGV[1])
if seen then count, token = string.match(seen, '^(%d+):(.*)$') end
if token == ARGV[2] then return tonumber(count) end
count = tonumber(count) + 1
redis.call('HSET', KEYS[2], ARGV[1], count .. ':' .. ARGV[2])
return count
