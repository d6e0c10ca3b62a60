-- Records a revocation, for nodes that miss the command.
-- KEYS: revocations
-- ARGV: revocation, how long it matters (ms), number kept at most
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
-- Numbers are times, so that they grow also after the engine has lost its data.
local number = math.max((tonumber(last[2]) or 0) + 1, now)
local until_ms = now + tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], number, string.format('%.0f %.0f ', until_ms, number) .. ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])))
return number
