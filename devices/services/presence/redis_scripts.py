"""What Redis holds of presence, and the Lua that changes it, each script one atomic step.

All times are of Redis' own clock, in seconds since 1970 with microseconds, so that listeners and checkers on
several machines compare like with like. Silence says something only while somebody listens: a device that was
not listened to for its whole time-out gets the rest of it.
"""

LAST_SEEN = "device_last_seen"  # sorted set: device UUID → when it was last heard
DEADLINE = "device_deadline"  # sorted set: schema:UUID → when its silence is a time-out
TIMEOUT = "device_timeout"  # hash: schema:UUID → its time-out in seconds
EXPIRING = "device_expiring"  # sorted set: schema:UUID → until when a checker holds the expired deadline
WAITING_WILLS = "device_waiting_wills"  # sorted set: schema:UUID:device id:time of a will → when it is decided
LISTENING = "device_listening"  # hash: last, since (without a gap), stepped (the clock was set back)
UNHEARD = "device_unheard"  # hash: schema whose messages wait for its tables → until when silence says nothing there
MARKER = "device_presence"  # missing: Redis was emptied

# Listeners note themselves every second.
LISTENING_GAP_SECONDS = 3.0
# Longer than a listener takes to find what another one has put aside.
UNHEARD_SECONDS = 10.0
LEASE_SECONDS = 30.0
# How long a device whose connection the broker lost has to be heard again.
HINT_GRACE_SECONDS = 5.0

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local function text(moment) return string.format('%.6f', moment) end
"""

# KEYS: listening.
NOTE_LISTENING = (
    _CLOCK
    + f"""
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0')
if last > now + 1 then redis.call('HSET', KEYS[1], 'stepped', 1) end
if last > now + 1 or now - last > {LISTENING_GAP_SECONDS} then redis.call('HSET', KEYS[1], 'since', text(now)) end
redis.call('HSET', KEYS[1], 'last', text(now))
"""
)

# KEYS: unheard. ARGV: schemas.
NOTE_UNHEARD = (
    _CLOCK
    + f"""
for _, schema in ipairs(ARGV) do redis.call('HSET', KEYS[1], schema, text(now + {UNHEARD_SECONDS})) end
"""
)

# KEYS: listening, last seen, deadline, time-out. ARGV: a JSON list (one argument is packed faster than thousands): for
# each device its UUID, schema:UUID, age of the sign (s), time-out (s). Answers the time, and for each device whether
# its deadline is new. An older sign moves nothing back, unless what is known lies in the future, because the clock
# was set back.
TOUCH = (
    NOTE_LISTENING
    + """
local answer = {text(now)}
local given = cjson.decode(ARGV[1])
for i = 1, #given, 4 do
  local seen = now - given[i + 2]
  local known = tonumber(redis.call('ZSCORE', KEYS[2], given[i]) or '-1')
  if known < seen or known > now then
    redis.call('ZADD', KEYS[2], text(seen), given[i])
  else
    seen = known
  end
  redis.call('HSET', KEYS[4], given[i + 1], given[i + 3])
  answer[#answer + 1] = redis.call('ZADD', KEYS[3], text(seen + given[i + 3]), given[i + 1])
end
return answer
"""
)

# KEYS: listening, deadline, expiring, last seen, time-out, unheard. ARGV: the most members to take.
# Answers the time, why nothing can be said ('deaf', 'stepped', or ''), how long ago the oldest deadline passed, and
# for each device taken its member, when it was last seen, and 'heard' where it has a deadline again: it spoke while a
# checker that died held it, perhaps after that had called it silent.
TAKE_EXPIRED = (
    _CLOCK
    + f"""
local heard = redis.call('HMGET', KEYS[1], 'last', 'since', 'stepped')
local last, since = tonumber(heard[1] or '0'), tonumber(heard[2] or '0')
if last > now + 1 or heard[3] then return {{text(now), 'stepped'}} end
if now - last > {LISTENING_GAP_SECONDS} then return {{text(now), 'deaf'}} end
local limit = tonumber(ARGV[1])
local answer, oldest = {{text(now), '', ''}}, now
local function lease(member, heard)
  redis.call('ZADD', KEYS[3], text(now + {LEASE_SECONDS}), member)
  answer[#answer + 1] = member
  answer[#answer + 1] = redis.call('ZSCORE', KEYS[4], string.match(member, ':(.*)$')) or ''
  answer[#answer + 1] = heard
end
local function unheard_until(member)
  local till = tonumber(redis.call('HGET', KEYS[6], string.match(member, '^(.*):')) or '0')
  return till <= now + {UNHEARD_SECONDS} and till or 0
end
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #expired, 2 do
  local earliest = math.max(since + (redis.call('HGET', KEYS[5], expired[i]) or 0), unheard_until(expired[i]))
  if earliest > now then
    redis.call('ZADD', KEYS[2], text(earliest), expired[i])
  else
    oldest = math.min(oldest, math.max(earliest, tonumber(expired[i + 1])))
    redis.call('ZREM', KEYS[2], expired[i])
    lease(expired[i], '')
  end
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', text(now), 'LIMIT', 0, limit)) do
  if redis.call('ZSCORE', KEYS[2], member) then
    lease(member, 'heard')
  elseif unheard_until(member) > now then
    redis.call('ZREM', KEYS[3], member)
    redis.call('ZADD', KEYS[2], text(unheard_until(member)), member)
  else
    lease(member, '')
  end
end
answer[3] = text(now - oldest)
return answer
"""
)

# Ends the leases of devices that were taken, but of those that are TIMEOUT and were heard since; answers these, each
# with when that was. Those that another checker has taken since are left to that one. KEYS: expiring, deadline, last
# seen. ARGV: until when they were taken, and a JSON list: for each device its UUID, schema:UUID, its status, a time.
# Of TIMEOUT it is when the device had been seen last (where it was not heard since, its next sign of life must find no
# deadline, so that it sets the status); of ONLINE a deadline, should it have none.
END_LEASES = (
    _CLOCK
    + """
local answer = {}
local given = cjson.decode(ARGV[2])
for i = 1, #given, 4 do
  local member, status, at = given[i + 1], given[i + 2], given[i + 3]
  local lease = tonumber(redis.call('ZSCORE', KEYS[1], member) or '0')
  local seen = status == 'TIMEOUT' and redis.call('ZSCORE', KEYS[3], given[i])
  if math.abs(lease - ARGV[1]) > 0.001 then
    -- not ours any more
  elseif seen and tonumber(seen) > at then
    answer[#answer + 1] = member
    answer[#answer + 1] = seen
  else
    if status == 'TIMEOUT' then redis.call('ZREM', KEYS[2], member) end
    if status == 'ONLINE' then redis.call('ZADD', KEYS[2], 'NX', text(at), member) end
    redis.call('ZREM', KEYS[1], member)
  end
end
return answer
"""
)

# The clock was set back: every device gets its whole time-out from now on. KEYS: listening, deadline, last seen,
# time-out. ARGV: the first and the last rank.
REANCHOR = (
    _CLOCK
    + """
local members = redis.call('ZRANGE', KEYS[2], ARGV[1], ARGV[2])
for _, member in ipairs(members) do
  redis.call('ZADD', KEYS[2], text(now + (redis.call('HGET', KEYS[4], member) or 60)), member)
  local uuid = string.match(member, ':(.*)$')
  local seen = tonumber(redis.call('ZSCORE', KEYS[3], uuid) or '0')
  if seen > now then redis.call('ZADD', KEYS[3], text(now), uuid) end
end
redis.call('HDEL', KEYS[1], 'stepped')
return #members
"""
)

# KEYS: last seen, deadline. ARGV: the grace (s), then for each device its UUID, schema:UUID, and when its connection
# was lost. Those that were not heard since have the grace to speak. Answers how many.
EXPECT_SOON = (
    _CLOCK
    + """
local count = 0
for i = 2, #ARGV, 3 do
  local seen = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i]) or '0')
  if seen <= tonumber(ARGV[i + 2]) then
    count = count + redis.call('ZADD', KEYS[2], 'XX', 'LT', 'CH', text(now + ARGV[1]), ARGV[i + 1])
  end
end
return count
"""
)

# KEYS: deadline, time-out. ARGV: for each device schema:UUID and its time-out. Those without a deadline get one.
GIVE_DEADLINES = (
    _CLOCK
    + """
local given = 0
for i = 1, #ARGV, 2 do
  if redis.call('ZADD', KEYS[1], 'NX', text(now + ARGV[i + 1]), ARGV[i]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
    given = given + 1
  end
end
return given
"""
)
