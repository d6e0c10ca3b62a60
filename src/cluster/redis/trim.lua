-- Removes the messages of a channel, not its position, and notifies nodes with copies of them.
-- KEYS: meta, list
-- ARGV: lineage, fresh epoch, lifetime of the position (ms), topic
-- Returns {epoch, offset}.
local meta = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'offset')
local epoch, offset = meta[2], meta[3]
redis.call('DEL', KEYS[2])
if meta[1] ~= ARGV[1] then
    epoch, offset = ARGV[2], '0'
    redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', epoch, 'offset', offset)
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
redis.call('PUBLISH', ARGV[4], '!')
return {epoch, offset}
