"""Redis keys of the newest values, and the Lua scripts that change them; each script is one atomic step."""

PREFIX = "telemetry_latest:"  # and the schema: a hash, series id → "microseconds since 1970, a space, the value"
COMPLETE = "complete"  # in that hash: the generation that it holds everything of
WRITERS = "telemetry_latest_writers"  # hash: listener → its last heartbeat, by Redis' clock
GENERATION = "telemetry_latest_generation"

# A listener's heartbeat comes every second; one that is late is distrusted, and then given up.
_LATE_SECONDS = 5
_STOPPED_SECONDS = 15

_CLOCK = f"""
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local function begin() redis.call('SET', '{GENERATION}', t[1] .. '.' .. t[2]) end
"""

# KEYS: writers, generation. ARGV: the listener, and 1 when something may have been lost. One that is new (or was
# given up) begins a generation: the one before it may have died.
HEARTBEAT = (
    _CLOCK
    + """
local new = redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f', now))
if new == 1 or ARGV[2] == '1' then begin() end
"""
)

# KEYS: writers, generation. A listener that is gone begins a generation.
EXPIRE_LISTENERS = (
    _CLOCK
    + f"""
local beats = redis.call('HGETALL', KEYS[1])
for i = 1, #beats, 2 do
  if now - beats[i + 1] > {_STOPPED_SECONDS} then
    redis.call('HDEL', KEYS[1], beats[i])
    begin()
  end
end
"""
)

# KEYS: generation.
CURRENT_GENERATION = (
    _CLOCK
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then begin() end
return redis.call('GET', KEYS[1])
"""
)

# KEYS: writers, generation, the tenant's hash. ARGV: the series' ids as a JSON list of texts. Answers as JSON, which
# is read faster than thousands of answers: whether everything is known, and the values, false where there is none.
READ = (
    _CLOCK
    + f"""
local function complete()
  local generation = redis.call('GET', KEYS[2])
  if not generation or redis.call('HGET', KEYS[3], '{COMPLETE}') ~= generation then return false end
  for _, beat in ipairs(redis.call('HVALS', KEYS[1])) do
    if now - beat > {_LATE_SECONDS} then return false end
  end
  return true
end
local series, values = cjson.decode(ARGV[1]), {{}}
for first = 1, #series, 1000 do
  local some = redis.call('HMGET', KEYS[3], unpack(series, first, math.min(first + 999, #series)))
  for i = 1, #some do values[#values + 1] = some[i] end
end
return cjson.encode({{complete(), values}})
"""
)

# KEYS: the tenant's hash, the set of what changed. ARGV: a JSON list of texts (one argument is packed faster than
# thousands): for each series its id, the microseconds, and the value: n and a number, or t and a text. Of one instant
# the greater, texts by their bytes (which is by their code points).
ADVANCE = """
local function greater(one, other)
  if string.sub(one, 1, 1) == 'n' then return tonumber(string.sub(one, 2)) > tonumber(string.sub(other, 2)) end
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a > b end
  end
  return #one > #other
end
local given = cjson.decode(ARGV[1])
for i = 1, #given, 3 do
  local known = redis.call('HGET', KEYS[1], given[i])
  local newer = true
  if known then
    local gap = string.find(known, ' ', 1, true)
    local then_at, at = tonumber(string.sub(known, 1, gap - 1)), tonumber(given[i + 1])
    newer = at > then_at or (at == then_at and greater(given[i + 2], string.sub(known, gap + 1)))
  end
  if newer then
    redis.call('HSET', KEYS[1], given[i], given[i + 1] .. ' ' .. given[i + 2])
    redis.call('SADD', KEYS[2], given[i])
  end
end
"""
