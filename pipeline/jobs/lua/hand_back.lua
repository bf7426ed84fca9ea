-- Take an open batch from its host and queue its archive again: whichever host unpacks it next begins anew.
-- KEYS: host, total, processed, failed, open, unpack queue.
-- ARGV: batch id, host, total, processed, failed (as they were seen, '' for none; '*' for any), unpack job.
-- Gives 1, or 0 where the batch has moved on since.
local function is(key, seen) return seen == '*' or (redis.call('GET', key) or '') == seen end
if not redis.call('ZSCORE', KEYS[5], ARGV[1]) then return 0 end
for i = 1, 4 do
  if not is(KEYS[i], ARGV[i + 1]) then return 0 end
end
redis.call('SET', KEYS[1], '')
redis.call('RPUSH', KEYS[6], ARGV[6])
return 1
