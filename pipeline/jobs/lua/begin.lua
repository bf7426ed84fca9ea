-- Count one delivery of a job before the work on it starts. Equal jobs are worked on one after the other, so that what
-- is counted are attempts in a row, however many copies of the job there are.
-- KEYS: working list, attempts, workers, delayed.
-- ARGV: job, token of this delivery (a repeated call counts once), worker (a Redis that was wiped while it waited for the
-- job has forgotten it), how many deliveries of such a job it has in hand, seconds that a copy waits.
-- Gives the number of attempts so far; 0 where the job is no longer in this worker's list, or is the one in hand; -1
-- where this copy waits, because another one is in some worker's list, or is to be tried again later.
local job, token, worker = ARGV[1], ARGV[2], ARGV[3]
local copies = #redis.call('LPOS', KEYS[1], job, 'COUNT', 0)
if copies <= tonumber(ARGV[4]) then return 0 end
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[3], now, worker)
local count, tokens = string.match(redis.call('HGET', KEYS[2], job) or '0:', '^(%d+):(.*)$')
if string.find(tokens, token .. ' ', 1, true) then return tonumber(count) end
local lists = string.sub(KEYS[1], 1, -1 - #worker)
for _, other in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if other ~= worker and redis.call('LPOS', lists .. other, job) then copies = copies + 1 end
end
if copies > 1 or redis.call('ZSCORE', KEYS[4], job) then
  redis.call('LREM', KEYS[1], -1, job)
  redis.call('ZADD', KEYS[4], 'NX', now + ARGV[5], job)
  return -1
end
redis.call('HSET', KEYS[2], job, (count + 1) .. ':' .. tokens .. token .. ' ')
return count + 1
