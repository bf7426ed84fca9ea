-- Take a worker's id: set its heartbeat where there is none, or where the one found is still the dead one seen.
-- KEYS: heartbeat.  ARGV: our heartbeat, seconds that it lasts, the dead heartbeat (or '').
-- Gives nothing where the id is ours now, else the heartbeat that is in the way.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[3] and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return false
