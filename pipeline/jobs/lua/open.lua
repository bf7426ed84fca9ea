-- Start the counting of a batch, once: a second delivery of its archive keeps the counts. Where it finds more
-- files, because a newer release knows more kinds of them, they are waited for too.
-- KEYS: host, total, processed, failed, open, finishing, moved.  ARGV: batch id, host, number of files.
-- Gives 'open', 'complete' where there is nothing to wait for, or 'foreign' where the batch is another host's.
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'foreign' end
redis.call('SET', KEYS[7], redis.call('TIME')[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SET', KEYS[2], ARGV[3])
  redis.call('SET', KEYS[3], 0)
  redis.call('SET', KEYS[4], 0)
end
local settled = redis.call('GET', KEYS[3]) + redis.call('GET', KEYS[4])
if settled < tonumber(redis.call('GET', KEYS[2])) then
  if tonumber(redis.call('GET', KEYS[2])) < tonumber(ARGV[3]) then redis.call('SET', KEYS[2], ARGV[3]) end
  return 'open'
end
redis.call('HSET', KEYS[6], ARGV[1], ARGV[2])
redis.call('ZREM', KEYS[5], ARGV[1])
return 'complete'
