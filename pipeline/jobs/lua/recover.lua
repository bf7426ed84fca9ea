-- Take back what a dead worker had in progress, in its order, to the front of the queue.
-- KEYS: heartbeat, working list, queue.
-- Gives the number of jobs; none while the heartbeat is there.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local jobs = 0
while redis.call('LMOVE', KEYS[2], KEYS[3], 'RIGHT', 'LEFT') do jobs = jobs + 1 end
return jobs
