-- Takes a lease of each of some limits, if all of them have room.
-- KEYS: for each limit: the leases, sorted by the time at which they end; the gateways that wait, a hash of
-- when their request arrived and until when that counts.
-- ARGV: the lease, or nothing to only ask; this gateway; milliseconds since the request arrived;
-- milliseconds for which the gateway counts as waiting if there is no room; milliseconds that the lease
-- lasts; the number of each limit; then leases to release first.
-- Returns 1 if there is room, else 0. The times are by the clock of Redis.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gateway, arrived = ARGV[2], now - tonumber(ARGV[3])
local limits = #KEYS / 2
local full = {}
local has_room = true
for at = 1, limits do
  local leases, waiting = KEYS[2 * at - 1], KEYS[2 * at]
  for released = 6 + limits, #ARGV do
    redis.call('ZREM', leases, ARGV[released])
  end
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
  local free = tonumber(ARGV[5 + at]) - redis.call('ZCARD', leases)
  local others = redis.call('HGETALL', waiting)
  for i = 1, #others, 2 do
    local since, till = string.match(others[i + 1], '^(%d+) (%d+)$')
    if not till or tonumber(till) <= now then
      redis.call('HDEL', waiting, others[i])
    elseif others[i] ~= gateway and tonumber(since) < arrived then
      -- A request that arrived earlier gets the slot.
      free = free - 1
    end
  end
  full[at] = free <= 0
  has_room = has_room and not full[at]
end
for at = 1, limits do
  local leases, waiting = KEYS[2 * at - 1], KEYS[2 * at]
  if full[at] then
    local text = string.format('%.0f %.0f', arrived, now + tonumber(ARGV[4]))
    redis.call('HSET', waiting, gateway, text)
    redis.call('PEXPIRE', waiting, 2 * tonumber(ARGV[5]))
  elseif has_room and ARGV[1] ~= '' then
    redis.call('ZADD', leases, now + tonumber(ARGV[5]), ARGV[1])
    redis.call('PEXPIRE', leases, 2 * tonumber(ARGV[5]))
    redis.call('HDEL', waiting, gateway)
  end
end
return {has_room and 1 or 0}
