-- Calls each command that the other scripts use, on a key that does not exist, and leaves nothing.
-- KEYS: a key that does not exist
-- ARGV: a topic without subscribers
-- Returns {command, error, ...} for those that fail.
local failed = {}
local function try(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
        failed[#failed + 1] = (...)
        failed[#failed + 1] = reply.err
        return false
    end
    return true
end
local key = KEYS[1]
try('TIME')
try('PUBLISH', ARGV[1], '')
try('GET', key)
try('EXISTS', key)
try('PTTL', key)
try('PEXPIRE', key, '1000')
if not try('DEL', key) then
    -- What follows would stay.
    return failed
end
try('SET', key, '1', 'PX', '1000')
try('DEL', key)
try('HSET', key, 'a', '1')
try('HMGET', key, 'a')
try('HGETALL', key)
try('HGET', key, 'a')
try('HINCRBY', key, 'a', '1')
try('HLEN', key)
try('HDEL', key, 'a')
try('DEL', key)
try('RPUSH', key, '1', '2')
try('LINDEX', key, '0')
try('LLEN', key)
try('LRANGE', key, '0', '0')
try('LTRIM', key, '0', '0')
try('LPOP', key)
try('DEL', key)
try('SADD', key, 'a', 'b', 'c')
try('SMEMBERS', key)
try('SCARD', key)
try('SREM', key, 'a')
try('SPOP', key, '1')
try('DEL', key)
try('ZADD', key, '1', 'a')
try('ZCARD', key)
try('ZRANGE', key, '0', '0')
try('ZRANGEBYLEX', key, '-', '+')
try('ZRANGEBYSCORE', key, '0', '1')
try('ZSCORE', key, 'a')
try('ZREM', key, 'a')
try('ZREMRANGEBYRANK', key, '0', '0')
try('DEL', key)
return failed
