-- Move the delayed jobs that are due to the queue, 100 at most.
-- KEYS: delayed, queue.
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], job)
  redis.call('RPUSH', KEYS[2], job)
end
