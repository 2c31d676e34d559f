-- Registers this gateway, and exchanges cordons.
-- KEYS: the gateways, sorted by the time at which they count as gone; the cordons, a hash of 1 and 0.
-- ARGV: this gateway, milliseconds until it counts as gone, milliseconds until cordons expire; then for
-- each server: name, 1 or 0, and "set" for an operator's change, "keep" for what an earlier run has left.
-- Returns the number of gateways, and each server with 1 or 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for at = 4, #ARGV, 3 do
  local command = 'HSET'
  if ARGV[at + 2] == 'keep' then command = 'HSETNX' end
  redis.call(command, KEYS[2], ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local answer = redis.call('HGETALL', KEYS[2])
table.insert(answer, 1, tostring(redis.call('ZCARD', KEYS[1])))
return answer
