-- Records a node, and reads what other nodes have recorded.
-- KEYS: nodes, revocations
-- ARGV: node, record, time after which a silent node is forgotten (ms), number of the last
--       revocation known to the node
-- Returns {number of the last revocation, {revocation, ...}, age (ms), record, ...}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
-- The entries are in the order of their numbers, and nearly in that of their expiry.
local first = redis.call('ZRANGE', KEYS[2], 0, 15)
for _, entry in ipairs(first) do
    if tonumber(string.match(entry, '^(%d+) ')) < now then
        redis.call('ZREM', KEYS[2], entry)
    end
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
local number = last[2] or '0'
if tonumber(number) < tonumber(ARGV[4]) then
    -- The engine has lost revocations, and numbers them again.
    ARGV[4] = '0'
end
local entries = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[4], '+inf', 'LIMIT', 0, 1024)
if #entries == 1024 then
    number = redis.call('ZSCORE', KEYS[2], entries[1024])
end
local result = {number, entries}
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    local written, record = string.match(all[at + 1], '^(%d+) (.*)$')
    local age = now - tonumber(written)
    if age > tonumber(ARGV[3]) then
        redis.call('HDEL', KEYS[1], all[at])
    else
        result[#result + 1] = string.format('%.0f', age)
        result[#result + 1] = record
    end
end
return result
