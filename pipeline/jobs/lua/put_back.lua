-- Return a job: to the front of its queue, to its queue after a delay, or (delay -1) nowhere: it stays in this
-- worker's list for the worker's next run.
-- KEYS: working list, attempts, queue, delayed.
-- ARGV: job, delay in seconds, token of the delivery that is not to count (or '').
-- Gives 1, or 0 where the job is no longer in this worker's list: then it stays where it is.
local count, tokens = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '0:', '^(%d+):(.*)$')
local first, last = string.find(tokens, ARGV[3] .. ' ', 1, true)
if ARGV[3] ~= '' and first then
  if tonumber(count) > 1 then
    local others = string.sub(tokens, 1, first - 1) .. string.sub(tokens, last + 1)
    redis.call('HSET', KEYS[2], ARGV[1], (count - 1) .. ':' .. others)
  else
    redis.call('HDEL', KEYS[2], ARGV[1])
  end
end
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
local delay = tonumber(ARGV[2])
if delay < 0 then return 1 end
redis.call('LREM', KEYS[1], 1, ARGV[1])
if delay == 0 then
  redis.call('LPUSH', KEYS[3], ARGV[1])
else
  redis.call('ZADD', KEYS[4], redis.call('TIME')[1] + delay, ARGV[1])
end
return 1
