-- Adds what a gateway has served to the counters of clients, and returns those that have changed.
-- KEYS: the counters, a hash by model and client; the same, sorted by the version of their last change.
-- ARGV: the version up to which the gateway knows all, the most rows to return, the most counters to keep,
-- milliseconds until they expire; then for each counter: its name, what the gateway knew, what it adds.
-- Returns the version up to which the gateway then knows all, and for each counter its name and value. A
-- version is a time in microseconds, so that it grows also if Redis has lost its data.
local time = redis.call('TIME')
local newest = tonumber(redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2] or '0')
local version = math.max(newest, time[1] * 1000000 + time[2])
for at = 5, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  -- A gateway can know more than Redis, which may have lost its data.
  local served = math.max(tonumber(known or '0'), tonumber(ARGV[at + 1])) + tonumber(ARGV[at + 2])
  if not known or served > tonumber(known) then
    version = version + 1
    redis.call('HSET', KEYS[1], ARGV[at], string.format('%.17g', served))
    redis.call('ZADD', KEYS[2], string.format('%.0f', version), ARGV[at])
    newest = version
  end
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1 - tonumber(ARGV[3]))) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local seen = ARGV[1]
if tonumber(seen) > newest then seen = '0' end
local answer = { seen }
local changed = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. seen, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #changed, 2 do
  table.insert(answer, changed[at])
  table.insert(answer, redis.call('HGET', KEYS[1], changed[at]))
  answer[1] = string.format('%.0f', tonumber(changed[at + 1]))
end
return answer
