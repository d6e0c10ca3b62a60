-- Appends a message and publishes it.
-- KEYS: meta, list[, seen]
-- ARGV: lineage, fresh epoch, messages kept, age kept (ms), lifetime of the position (ms), topic,
--       envelope[, hash of the content, lifetime of the key (ms)]
-- Returns {1 | 0 for a duplicate, epoch, offset}, or {2} if the key was used for other content.
local meta = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'offset')
local seen = KEYS[3] and redis.call('GET', KEYS[3])
if seen then
    local hash, epoch, offset = string.match(seen, '^(%x+) (%x+) (%d+)$')
    -- A message of an earlier epoch may be lost: then this is the first one.
    if meta[1] == ARGV[1] and meta[2] == epoch then
        if hash ~= ARGV[8] then
            return {2}
        end
        return {0, epoch, offset}
    end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, offset = meta[2], tonumber(meta[3])
if meta[1] ~= ARGV[1] then
    epoch, offset = ARGV[2], 0
    redis.call('DEL', KEYS[2])
end
offset = offset + 1
local place = string.format('%.0f %.0f ', offset, now)
redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', epoch, 'offset', string.format('%.0f', offset))
local kept, age = tonumber(ARGV[3]), tonumber(ARGV[4])
if kept > 0 then
    local length = redis.call('RPUSH', KEYS[2], place .. ARGV[7])
    if length > kept then
        redis.call('LTRIM', KEYS[2], -kept, -1)
    end
    -- Some at a time: the next publishes remove the rest, and reads skip it.
    for _ = 1, 16 do
        local first = redis.call('LINDEX', KEYS[2], 0)
        local written = tonumber(string.match(first, '^%d+ (%d+) '))
        if written + age >= now then
            break
        end
        redis.call('LPOP', KEYS[2])
    end
    redis.call('PEXPIRE', KEYS[2], age + 1)
else
    redis.call('DEL', KEYS[2])
end
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[5]), age + 1))
local text = string.format('%.0f', offset)
if KEYS[3] then
    redis.call('SET', KEYS[3], ARGV[8] .. ' ' .. epoch .. ' ' .. text, 'PX', ARGV[9])
end
redis.call('PUBLISH', ARGV[6], epoch .. ' ' .. place .. ARGV[7])
return {1, epoch, text}
