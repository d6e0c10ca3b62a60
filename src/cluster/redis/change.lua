-- Changes what a node lists of a channel.
-- KEYS: meta, members, order, seats, what the incarnation lists, mark of a swept incarnation,
--       incarnations
-- ARGV: incarnation, channel, topic, lifetime of the revision (ms), then for each change five:
--       + member connection info connection-that-it-resumes (list), ~ (the same, renamed),
--       - member (unlist), s connection (has a seat), r connection (leaves it)
-- Returns 1, or 0 if the incarnation was swept: then nothing was changed.
if redis.call('EXISTS', KEYS[6]) == 1 then
    return 0
end
local incarnation, channel = ARGV[1], ARGV[2]
local lists = start_lists(KEYS, ARGV[3], tonumber(ARGV[4]))
for at = 5, #ARGV, 5 do
    local kind, key = ARGV[at], ARGV[at + 1]
    if kind == '+' or kind == '~' then
        redis.call('SADD', KEYS[5], channel .. '\0m' .. key)
        lists.add(incarnation, key, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], kind == '~')
    elseif kind == '-' then
        redis.call('SREM', KEYS[5], channel .. '\0m' .. key)
        lists.remove(incarnation, key)
    elseif kind == 's' then
        redis.call('SADD', KEYS[5], channel .. '\0s' .. key)
        redis.call('HSET', KEYS[4], key, incarnation)
    else
        redis.call('SREM', KEYS[5], channel .. '\0s' .. key)
        lists.leave_seat(incarnation, key)
    end
end
redis.call('SADD', KEYS[7], incarnation)
return 1
