-- Ends what an incarnation lists in a partition.
-- KEYS: what the incarnation lists
-- ARGV: incarnation, prefix of keys, tag of the partition, lifetime of revisions (ms), entries at
--       most
-- Returns the number of entries that remain.
for _, entry in ipairs(redis.call('SPOP', KEYS[1], ARGV[5])) do
    local channel, kind, key = string.match(entry, '^(%Z*)%z(.)(.*)$')
    local function name(letter)
        return ARGV[2] .. ':' .. letter .. '{' .. ARGV[3] .. '}' .. channel
    end
    local keys = {name('m'), name('p'), name('o'), name('q')}
    local lists = start_lists(keys, name('c'), tonumber(ARGV[4]))
    if kind == 'm' then
        lists.remove(ARGV[1], key)
    else
        lists.leave_seat(ARGV[1], key)
    end
end
return redis.call('SCARD', KEYS[1])
