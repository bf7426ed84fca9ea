-- Strike out a note, where it is still the one that was read.
-- KEYS: hash of notes.  ARGV: field, value.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
