-- Count a file once, together with the acknowledgement of its job.
-- KEYS: host, total, processed, failed, settled, moved, open, finishing, and of the job: working list, attempts,
-- dead.
-- ARGV: batch id, host, filename, 'processed' or 'failed', job (or '' where none is in progress), dead letter (or '').
-- Gives 'lost' where the job is no longer in this worker's list, 'closed' where the batch is finished,
-- 'foreign' where it is another host's, 'counted', or to exactly one caller 'complete'.
if ARGV[5] ~= '' then
  if redis.call('LREM', KEYS[9], 1, ARGV[5]) == 0 then return 'lost' end
  redis.call('HDEL', KEYS[10], ARGV[5])
  if ARGV[6] ~= '' then redis.call('RPUSH', KEYS[11], ARGV[6]) end
end
local total = redis.call('GET', KEYS[2])
if not total then return 'closed' end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 'foreign' end
if redis.call('SADD', KEYS[5], ARGV[3]) == 0 then return 'counted' end
redis.call('SET', KEYS[6], redis.call('TIME')[1])
redis.call('INCR', ARGV[4] == 'failed' and KEYS[4] or KEYS[3])
if redis.call('GET', KEYS[3]) + redis.call('GET', KEYS[4]) < tonumber(total) then return 'counted' end
redis.call('HSET', KEYS[8], ARGV[1], ARGV[2])
redis.call('ZREM', KEYS[7], ARGV[1])
return 'complete'
