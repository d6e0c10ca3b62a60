-- Reads the position of a channel, and messages. Starts a channel that is unknown, or was written
-- under another lineage; keeps the position for a time at least.
-- KEYS: meta, list
-- ARGV: lineage, fresh epoch, age kept (ms), least lifetime of the position (ms), messages at most,
--       bytes at most, but of the first message, 1 for newest first, epoch of the position to read after or '', its offset
-- Returns {epoch, offset, 1 if all messages of the range are returned, message, ...}.
local meta = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'offset')
local epoch, offset = meta[2], tonumber(meta[3])
local age = tonumber(ARGV[3])
if meta[1] ~= ARGV[1] then
    epoch, offset = ARGV[2], 0
    redis.call('DEL', KEYS[2])
    redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', epoch, 'offset', '0')
end
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[1])))
local result = {epoch, string.format('%.0f', offset), 1}
local messages_max, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local has_since = ARGV[8] ~= '' or ARGV[9] ~= ''
if messages_max == 0 and not has_since then
    return result
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The list has consecutive offsets up to the position: a place in it is an index.
local length = redis.call('LLEN', KEYS[2])
local first = offset - length + 1
local from = first
local function is_expired(at)
    local message = redis.call('LINDEX', KEYS[2], at - first)
    return tonumber(string.match(message, '^%d+ (%d+) ')) + age < now
end
-- Times grow: search for the first message that is not expired.
local low, high = first, offset + 1
if length > 0 and is_expired(first) then
    while low < high do
        local middle = math.floor((low + high) / 2)
        if is_expired(middle) then low = middle + 1 else high = middle end
    end
    from = low
end
if has_since then
    local since = tonumber(ARGV[9])
    if ARGV[8] ~= epoch then
        result[3] = 0
        return result
    end
    if since > offset or from > since + 1 then
        result[3] = 0
    end
    from = math.max(from, since + 1)
end
local count, bytes = 0, 0
local reverse = ARGV[7] == '1'
while from + count <= offset do
    if count >= messages_max then
        result[3] = 0
        break
    end
    -- In portions, because the bytes are not known before.
    local portion = math.min(64, messages_max - count, offset - from - count + 1)
    local start = from + count - first
    if reverse then
        start = length - count - portion
    end
    local messages = redis.call('LRANGE', KEYS[2], start, start + portion - 1)
    for at = 1, portion do
        local message = messages[reverse and portion + 1 - at or at]
        bytes = bytes + #message
        if bytes > bytes_max and count > 0 then
            result[3] = 0
            return result
        end
        count = count + 1
        result[3 + count] = message
    end
end
return result
