-- Drop what is left in the transcription queue of a lost host: its jobs name files on that host's disk.
-- KEYS: hosts, open, queue, attempts, delayed, workers.  ARGV: lost host, seconds of silence that make it lost.
-- Gives 1, or 0 where the host is heard again or has a batch open: every job that is still asked for is of such
-- a batch (push.lua). The dead letters stay.
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if seen and redis.call('TIME')[1] - seen < tonumber(ARGV[2]) then return 0 end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if redis.call('GET', 'batch:' .. id .. ':host') == ARGV[1] then return 0 end
end
for _, worker in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do
  redis.call('DEL', KEYS[3] .. ':working:' .. worker)
end
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
