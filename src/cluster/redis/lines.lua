-- What the scripts of the list of members share.
--
-- The hash of a channel's members has, by member, one line for each node that lists it:
-- "incarnation tag connection info". The tag is the member's key on that node for a client without
-- a user, otherwise '-'. A client without a user that has moved between nodes has the field "=key"
-- instead: it is listed under the key that it joined with. The sorted set has the keys of lists,
-- for pages. Each incarnation of a node has a set of all that it lists: "channel\0m<key>" for a
-- member, "channel\0s<connection>" for a seat.
local function start_lists(keys, topic, lifetime)
    local meta, members, order, seats = keys[1], keys[2], keys[3], keys[4]
    local lists = {}

    -- Returns the revision of the list, which changes with each join and leave.
    function lists.get_revision()
        local revision = redis.call('HGET', meta, 'members')
        if not revision then
            -- It starts with a time, so that it grows also after the engine has lost data.
            local time = redis.call('TIME')
            revision = string.format('%.0f', time[1] * 1000000 + time[2])
            redis.call('HSET', meta, 'members', revision)
            redis.call('PEXPIRE', meta, math.max(lifetime, redis.call('PTTL', meta)))
        end
        return revision
    end

    -- Publishes a join (+) or leave (-).
    local function publish(kind, key, line)
        local connection, info = string.match(line, '^%S+ %S+ (%S+) (.*)\n$')
        lists.get_revision()
        local revision = redis.call('HINCRBY', meta, 'members', 1)
        local text = string.format('%s%.0f %s %d %s%s', kind, revision, connection, #key, key, info)
        redis.call('PUBLISH', topic, text)
    end

    -- Returns the key that a member is listed under, its lines, and whether it has moved.
    local function find(key)
        local value = redis.call('HGET', members, key)
        if value and string.sub(value, 1, 1) == '=' then
            local first = string.sub(value, 2)
            return first, redis.call('HGET', members, first) or '', true
        end
        return key, value or '', false
    end

    -- Returns the beginning of a node's line about a member.
    local function start_of(incarnation, key)
        local is_connection = string.sub(key, 1, 11) == 'connection:'
        return incarnation .. ' ' .. (is_connection and key or '-') .. ' '
    end

    -- Splits lines into those of others, and the one that begins with `start`.
    local function split(lines, start)
        local others, own = '', nil
        for line in string.gmatch(lines, '[^\n]*\n') do
            if string.sub(line, 1, #start) == start then
                own = line
            else
                others = others .. line
            end
        end
        return others, own
    end

    -- Returns whether a line has this tag, or this connection.
    local function has_line(lines, tag, connection)
        for own_tag, own_connection in string.gmatch(lines, '%S+ (%S+) (%S+) [^\n]*\n') do
            if own_tag == tag or own_connection == connection then
                return true
            end
        end
        return false
    end

    -- Returns the key that a connection is listed under, if it is shown, and its lines.
    local function find_replaced(replaces)
        local listed, lines = find('connection:' .. replaces)
        if has_line(lines, nil, replaces) then
            return listed, lines
        end
    end

    -- Returns the key that a member is listed under, or that of the connection that it resumes.
    function lists.find_listed(key, replaces)
        local listed, lines = find(key)
        if lines ~= '' then
            return listed
        end
        return replaces ~= '' and find_replaced(replaces)
    end

    function lists.add(incarnation, key, connection, info, replaces, is_renamed)
        local listed, lines = find(key)
        if replaces ~= '' and lines == '' then
            local other, others = find_replaced(replaces)
            if other then
                redis.call('HSET', members, key, '=' .. other)
                listed, lines = other, others
            end
        end
        local start = start_of(incarnation, key)
        local others, own = split(lines, start)
        local line = start .. connection .. ' ' .. info .. '\n'
        redis.call('HSET', members, listed, others .. line)
        if lines == '' then
            redis.call('ZADD', order, 0, listed)
            publish('+', listed, line)
        elseif is_renamed and others == '' and own ~= line then
            publish('-', listed, own)
            publish('+', listed, line)
        end
    end

    function lists.remove(incarnation, key)
        local listed, lines, has_moved = find(key)
        local others, own = split(lines, start_of(incarnation, key))
        -- An earlier incarnation may list it as well.
        if has_moved and not has_line(others, key, nil) then
            redis.call('HDEL', members, key)
        end
        if not own then
            return
        end
        if others ~= '' then
            redis.call('HSET', members, listed, others)
            return
        end
        redis.call('HDEL', members, listed)
        redis.call('ZREM', order, listed)
        publish('-', listed, own)
    end

    function lists.leave_seat(incarnation, connection)
        if redis.call('HGET', seats, connection) == incarnation then
            redis.call('HDEL', seats, connection)
        end
    end

    return lists
end
