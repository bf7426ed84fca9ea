-- Give one worker of the fleet its turn at what only one does at a time.
-- KEYS: turn.  ARGV: worker id, seconds after which the turn ends by itself.
-- Gives 1, or 0 where a live worker has the turn, or the next one has not come yet ('').
local holder = redis.call('GET', KEYS[1])
if holder == '' then return 0 end
if holder and holder ~= ARGV[1] and redis.call('EXISTS', 'worker:' .. holder) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
