-- Queue what was found, once for each state of it: remote files (size and time), or local archives.
-- KEYS: seen, queue.  ARGV: of each its name, its state, its job.
-- Gives the names of those that were queued. A file queued by hand reads 'queued' until its transfer has seen its
-- state.
local queued = {}
for first = 1, #ARGV, 3 do
    local name, state = ARGV[first], ARGV[first + 1]
    local seen = redis.call('HGET', KEYS[1], name)
    if seen ~= state and seen ~= 'queued' then
        redis.call('HSET', KEYS[1], name, state)
        redis.call('RPUSH', KEYS[2], ARGV[first + 2])
        queued[#queued + 1] = name
    end
end
return queued
