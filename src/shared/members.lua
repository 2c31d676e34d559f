-- Registers this gateway, and exchanges cordons.
-- KEYS: the gateways, sorted by the time at which they count as gone; the cordons, a hash of 1 and 0; what
-- each gateway tells of itself, a hash.
-- ARGV: this gateway, milliseconds until it counts as gone, milliseconds until cordons expire, what it tells
-- of itself, the number of gateways that are returned; then for each server: name, 1 or 0, and "set" for an
-- operator's change, "keep" for what an earlier run has left.
-- Returns the number of gateways, the number of those that follow, for each of these its id, what it tells
-- (empty if nothing) and the milliseconds since it registered, this gateway first; then each server with 1 or 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First, because a Redis without memory refuses a script only at the first write that needs memory: the exchange fails
-- as a whole, and operators see the error.
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
for at = 6, #ARGV, 3 do
  local command = 'HSET'
  if ARGV[at + 2] == 'keep' then command = 'HSETNX' end
  redis.call(command, KEYS[2], ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
-- By id, so that the same gateways are returned each time.
local gateways = redis.call('ZRANGE', KEYS[1], 0, -1)
if redis.call('HLEN', KEYS[3]) > #gateways then
  for _, id in ipairs(redis.call('HKEYS', KEYS[3])) do
    if not redis.call('ZSCORE', KEYS[1], id) then redis.call('HDEL', KEYS[3], id) end
  end
end
table.sort(gateways, function(one, other)
  if one == ARGV[1] or other == ARGV[1] then return one == ARGV[1] and other ~= ARGV[1] end
  return one < other
end)
local returned = math.min(#gateways, tonumber(ARGV[5]))
local answer = { tostring(#gateways), tostring(returned) }
for at = 1, returned do
  local gone_at = tonumber(redis.call('ZSCORE', KEYS[1], gateways[at]))
  table.insert(answer, gateways[at])
  table.insert(answer, redis.call('HGET', KEYS[3], gateways[at]) or '')
  table.insert(answer, string.format('%d', math.max(0, now + ARGV[2] - gone_at)))
end
for _, value in ipairs(redis.call('HGETALL', KEYS[2])) do table.insert(answer, value) end
return answer
