-- Everything that says where a batch is, at one moment.
-- KEYS: open, finishing, batch ids of transfers, then every queue.
-- Gives the open batches (id, when, host, total, processed, failed, job), the ids of those being finished, the
-- transfer jobs each with its batch id, and for each queue its jobs, wherever they are, and its dead letters.
local open, queues = {}, {}
local ids = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #ids, 2 do
  local row = {ids[i], ids[i + 1]}
  for _, field in ipairs({'host', 'total', 'processed', 'failed', 'job'}) do
    row[#row + 1] = redis.call('GET', 'batch:' .. ids[i] .. ':' .. field) or ''
  end
  open[#open + 1] = row
end
for i = 4, #KEYS do
  local jobs = redis.call('LRANGE', KEYS[i], 0, -1)
  local function add(more)
    for _, job in ipairs(more) do jobs[#jobs + 1] = job end
  end
  add(redis.call('ZRANGE', KEYS[i] .. ':delayed', 0, -1))
  for _, worker in ipairs(redis.call('ZRANGE', KEYS[i] .. ':workers', 0, -1)) do
    add(redis.call('LRANGE', KEYS[i] .. ':working:' .. worker, 0, -1))
  end
  queues[#queues + 1] = {jobs, redis.call('LRANGE', KEYS[i] .. ':dead', 0, -1)}
end
return {open, redis.call('HKEYS', KEYS[2]), redis.call('HGETALL', KEYS[3]), queues}
