-- What pipelinectl status shows, at one moment, as one JSON text. Changes nothing.
-- KEYS: open, finishing, hosts seen, hosts' queues, draining hosts, amiss, stranded, then every queue that is not a
-- host's own.
-- Gives the time; the open batches (id, start, host, moved, total, processed, failed); those being finished (id, host,
-- moved); what needs a person; the stranded batches, where that is known;
-- the hosts (name, last sign of life); the draining ones (name -> since when); of each queue its name, its host or
-- '', the numbers of jobs that wait, are delayed and dead, its next job, its workers with what each has in hand, and
-- the time of its oldest dead letter ('' where that has none); and each worker's own words.
local function all(command, key)
  return redis.call(command, key, 0, -1, 'WITHSCORES')
end
local function pairs_of(flat)
  local found = {}
  for i = 1, #flat, 2 do found[#found + 1] = {flat[i], flat[i + 1]} end
  return found
end
local open = {}
for _, batch in ipairs(pairs_of(all('ZRANGE', KEYS[1]))) do
  local key = 'batch:' .. batch[1] .. ':'
  local row = redis.call('MGET', key .. 'host', key .. 'moved', key .. 'total', key .. 'processed', key .. 'failed')
  open[#open + 1] = {batch[1], batch[2], row[1], row[2], row[3], row[4], row[5]}
end
local finishing = pairs_of(redis.call('HGETALL', KEYS[2]))
for _, batch in ipairs(finishing) do batch[3] = redis.call('GET', 'batch:' .. batch[1] .. ':moved') end
local queues, known = {}, {}
for i = 8, #KEYS do
  queues[#queues + 1] = {KEYS[i], ''}
  known[KEYS[i]] = queues[#queues]
end
for _, entry in ipairs(pairs_of(redis.call('HGETALL', KEYS[4]))) do
  if known[entry[1]] then known[entry[1]][2] = entry[2] else queues[#queues + 1] = entry end
end
local workers = {}
for _, queue in ipairs(queues) do
  local name, of = queue[1], {}
  for _, id in ipairs(redis.call('ZRANGE', name .. ':workers', 0, -1)) do
    of[#of + 1] = {id, redis.call('LLEN', name .. ':working:' .. id)}
    workers[id] = redis.call('GET', 'worker:' .. id)
  end
  local head = redis.call('LRANGE', name, 0, 0)[1] or ''
  queue[3], queue[4] = redis.call('LLEN', name), redis.call('ZCARD', name .. ':delayed')
  queue[5], queue[6], queue[7] = redis.call('LLEN', name .. ':dead'), #head < 4096 and head or '', of
  local dead_letter = redis.call('LRANGE', name .. ':dead', 0, 0)[1] or ''
  queue[8] = string.match(string.sub(dead_letter, -40), '"time": "([%dTZ:-]+)"}$') or ''
end
return cjson.encode({
  time = redis.call('TIME')[1], open = open, queues = queues, workers = workers,
  finishing = finishing, amiss = redis.call('GET', KEYS[6]), stranded = redis.call('GET', KEYS[7]),
  hosts = pairs_of(all('ZRANGE', KEYS[3])),
  draining = pairs_of(redis.call('HGETALL', KEYS[5])),
})
