-- Takes a seat of a channel that has a limited number of them, or that of another connection.
-- KEYS: seats, what the incarnation lists, mark of a swept incarnation, incarnations
-- ARGV: incarnation, channel, connection, connection that it resumes or '', number of seats
-- Returns 1 if it has one, 0 if all are taken, or -1 if the incarnation was swept.
if redis.call('EXISTS', KEYS[3]) == 1 then
    return -1
end
if redis.call('HGET', KEYS[1], ARGV[3]) == ARGV[1] then
    return 1
end
local is_passed_on = ARGV[4] ~= '' and redis.call('HDEL', KEYS[1], ARGV[4]) == 1
if not is_passed_on and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[2] .. '\0s' .. ARGV[3])
redis.call('SADD', KEYS[4], ARGV[1])
return 1
