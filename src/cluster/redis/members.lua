-- Reads a page of a channel's members. Starts their revision, and keeps it for a time at least.
-- KEYS: meta, members, order
-- ARGV: key of the member before the page or '', members at most, bytes at most but of the first,
--       a member to look for or '', the connection that it resumes or '', lifetime of the
--       revision (ms)
-- Returns {revision, number of members, the key that the member looked for is listed under or '',
--          1 if more follow, key, connection, info, ...}.
local lists = start_lists(KEYS, '', tonumber(ARGV[6]))
local result = {lists.get_revision(), redis.call('ZCARD', KEYS[3]), '', 0}
if ARGV[4] ~= '' then
    result[3] = lists.find_listed(ARGV[4], ARGV[5]) or ''
end
local limit, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3])
if limit == 0 then
    return result
end
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local keys = redis.call('ZRANGEBYLEX', KEYS[3], from, '+', 'LIMIT', 0, limit + 1)
local bytes = 0
for at, key in ipairs(keys) do
    -- The line of the latest connection is the last one.
    local line = string.match(redis.call('HGET', KEYS[2], key), '([^\n]*)\n$')
    local connection, info = string.match(line, '^%S+ %S+ (%S+) (.*)$')
    bytes = bytes + #key + #info + 100
    if at > limit or (bytes > bytes_max and at > 1) then
        result[4] = 1
        break
    end
    result[#result + 1] = key
    result[#result + 1] = connection
    result[#result + 1] = info
end
return result
