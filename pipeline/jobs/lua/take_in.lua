-- Take the jobs of a host's transcription queue into another one, which its workers read now: TRANSCRIBE_QUEUE has been
-- renamed. Its dead letters go along.
-- KEYS: hosts' queues, old queue, new queue, and of the old one: attempts, delayed, workers, dead; the new dead letters.
-- ARGV: host.
-- Gives the number of jobs, or -1 where a live worker still reads the old queue, or it is not this host's.
if redis.call('HGET', KEYS[1], KEYS[2]) ~= ARGV[1] then return -1 end
local workers = redis.call('ZRANGE', KEYS[6], 0, -1)
for _, worker in ipairs(workers) do
  local said = redis.call('GET', 'worker:' .. worker)
  local is_json, state = pcall(cjson.decode, said or '')
  local queue = is_json and type(state) == 'table' and state.queue
  if said and (type(queue) ~= 'string' or queue == KEYS[2]) then return -1 end
end
local taken = 0
local function take(jobs)
  for _, job in ipairs(jobs) do redis.call('RPUSH', KEYS[3], job) end
  taken = taken + #jobs
end
for _, worker in ipairs(workers) do
  take(redis.call('LRANGE', KEYS[2] .. ':working:' .. worker, 0, -1))
  redis.call('DEL', KEYS[2] .. ':working:' .. worker)
end
take(redis.call('LRANGE', KEYS[2], 0, -1))
take(redis.call('ZRANGE', KEYS[5], 0, -1))
for _, dead_letter in ipairs(redis.call('LRANGE', KEYS[7], 0, -1)) do redis.call('RPUSH', KEYS[8], dead_letter) end
for i = 4, 7 do redis.call('DEL', KEYS[i]) end
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[1], KEYS[2])
return taken
