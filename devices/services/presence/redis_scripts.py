"""Keys of presence in Redis, and the Lua scripts that change them, each one atomic step.

All times are of Redis' own clock, in seconds since 1970 with microseconds, so that listeners and checkers on several
machines compare the same clock. Silence counts only while a listener runs: a device without a listener for part of its
timeout gets that part again.
"""

LAST_SEEN = "device_last_seen"  # sorted set: device UUID → when it was last seen
DEADLINE = "device_deadline"  # sorted set: schema:UUID → when its silence becomes a timeout
TIMEOUT = "device_timeout"  # hash: schema:UUID → its timeout in seconds
EXPIRING = "device_expiring"  # sorted set: schema:UUID → end of a checker's lease of the expired deadline
PENDING_WILLS = "device_waiting_wills"  # sorted set: schema:UUID:device id:time of a will → when it is applied
PENDING_RETURNS = "device_returning"  # sorted set: schema:UUID:device id of a hidden child → end of its timeout
LISTENING = "device_listening"  # hash of heartbeats: last, since (without a gap), stepped (the clock was set back)
SUSPENDED_TIMEOUTS = (
    "device_unheard"  # hash: schema whose messages wait for locked tables → until when its timeouts are suspended
)
MARKER = "device_presence"  # missing after Redis was emptied

# Listeners send a heartbeat every second.
LISTENING_GAP_SECONDS = 3.0
# Longer than a listener takes to find another one's overflow.
SUSPENSION_SECONDS = 10.0
LEASE_SECONDS = 30.0
# Longer than a request to Redis lasts before the client gives up.
REQUEST_SECONDS = 1.0
# How long a device has to report again after the broker lost its connection.
RECONNECT_GRACE_SECONDS = 5.0

_CLOCK = """
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local function text(moment) return string.format('%.6f', moment) end
"""

# Records a heartbeat. KEYS: listening.
RECORD_HEARTBEAT = (
    _CLOCK
    + f"""
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0')
if last > now + 1 then redis.call('HSET', KEYS[1], 'stepped', 1) end
if last > now + 1 or now - last > {LISTENING_GAP_SECONDS} then redis.call('HSET', KEYS[1], 'since', text(now)) end
redis.call('HSET', KEYS[1], 'last', text(now))
"""
)

# KEYS: suspended timeouts. ARGV: schemas.
SUSPEND_TIMEOUTS = (
    _CLOCK
    + f"""
for _, schema in ipairs(ARGV) do redis.call('HSET', KEYS[1], schema, text(now + {SUSPENSION_SECONDS})) end
"""
)

# KEYS: listening, last seen, deadline, timeout. ARGV: a JSON list (one argument is packed faster than thousands): the
# time of sending, then for each device its UUID, schema:UUID, time of the event, timeout (s). Both times are of Redis'
# clock as the listener knows it; where it cannot be right, because a clock was set, they are moved. Returns the time,
# and for each device whether its deadline is new. An older event moves nothing back, unless the stored time lies in the
# future, because the clock was set back.
WRITE_ACTIVITY = (
    RECORD_HEARTBEAT
    + f"""
local answer = {{text(now)}}
local given = cjson.decode(ARGV[1])
local moved = now - given[1]
if moved >= 0 and moved < {REQUEST_SECONDS} then moved = 0 end
for i = 2, #given, 4 do
  local seen = math.min(now, given[i + 2] + moved)
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

# KEYS: listening, deadline, expiring, last seen, timeout, suspended timeouts. ARGV: how many members at most.
# Returns the time, what prevents a decision ('no_listener', 'clock_skew', or ''), how long ago the oldest deadline
# passed, and for each leased device its member, when it was last seen, and 'heard' if it has a deadline again: it
# reported during the lease of a checker that died, perhaps after its silence was applied.
LEASE_EXPIRED = (
    _CLOCK
    + f"""
local heard = redis.call('HMGET', KEYS[1], 'last', 'since', 'stepped')
local last, since = tonumber(heard[1] or '0'), tonumber(heard[2] or '0')
if last > now + 1 or heard[3] then return {{text(now), 'clock_skew'}} end
if now - last > {LISTENING_GAP_SECONDS} then return {{text(now), 'no_listener'}} end
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
  return till <= now + {SUSPENSION_SECONDS} and till or 0
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

# Releases leases, except of devices in TIMEOUT that were active since; returns these, each with the time. Leases that
# another checker has taken since are kept. KEYS: expiring, deadline, last seen. ARGV: the end of the leases, and a JSON
# list: for each device its UUID, schema:UUID, its status, a time. For TIMEOUT, the time is the last activity (without
# newer activity the device gets no deadline, so that its next event sets the status); for ONLINE, a deadline if it has
# none.
RELEASE_LEASES = (
    _CLOCK
    + """
local answer = {}
local given = cjson.decode(ARGV[2])
for i = 1, #given, 4 do
  local member, status, at = given[i + 1], given[i + 2], given[i + 3]
  local lease = tonumber(redis.call('ZSCORE', KEYS[1], member) or '0')
  local seen = status == 'TIMEOUT' and redis.call('ZSCORE', KEYS[3], given[i])
  if math.abs(lease - ARGV[1]) > 0.001 then
    -- leased by another checker
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

# Restarts every device's timeout after the clock was set back. KEYS: listening, deadline, last seen,
# timeout. ARGV: the first and the last rank.
RESTART_TIMEOUTS = (
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
# was lost. Devices without activity since then must report within the grace. Returns how many.
SHORTEN_DEADLINES = (
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

# KEYS: deadline, timeout. ARGV: for each device schema:UUID and its timeout. Adds missing deadlines; returns their
# number.
ADD_DEADLINES = (
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
