-- Takes a lease of each of some limits, if all of them have room.
-- KEYS: for each limit: the leases, sorted by the time at which they end; the gateways that wait, a hash of
-- the place of their first request and until when that counts.
-- ARGV: the lease, or nothing to only ask; this gateway; the level of the request; milliseconds since it
-- arrived; milliseconds for which the gateway counts as waiting if there is no room; milliseconds that the
-- lease lasts; for each limit its number and the counter of the client, 0 if the limit is for several
-- models; then leases to release first.
-- Returns 1 if there is room, else 0. The times are by the clock of Redis.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local gateway = ARGV[2]
local level, arrived = tonumber(ARGV[3]), now - tonumber(ARGV[4])
local waits, lasts = tonumber(ARGV[5]), tonumber(ARGV[6])
-- The order of the queues: by level, then the client that has received less, then the earlier request. An
-- overdue request has the level 0, whatever its client has received.
local function is_first(its_level, its_counter, since, counter)
  if its_level ~= level then return its_level < level end
  if level > 0 and its_counter ~= counter then return its_counter < counter end
  return since < arrived
end
local limits = #KEYS / 2
local full = {}
local has_room = true
for at = 1, limits do
  local leases, waiting = KEYS[2 * at - 1], KEYS[2 * at]
  local most, counter = tonumber(ARGV[5 + 2 * at]), tonumber(ARGV[6 + 2 * at])
  for released = 7 + 2 * limits, #ARGV do
    redis.call('ZREM', leases, ARGV[released])
  end
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
  local free = most - redis.call('ZCARD', leases)
  local others = redis.call('HGETALL', waiting)
  for i = 1, #others, 2 do
    local place = { string.match(others[i + 1], '^(%d+) (%S+) (%d+) (%d+)$') }
    for part = 1, #place do place[part] = tonumber(place[part]) end
    if not place[4] or place[4] <= now then
      redis.call('HDEL', waiting, others[i])
    elseif others[i] ~= gateway and is_first(place[1], place[2], place[3], counter) then
      free = free - 1
    end
  end
  full[at] = free <= 0
  has_room = has_room and not full[at]
end
for at = 1, limits do
  local leases, waiting = KEYS[2 * at - 1], KEYS[2 * at]
  if full[at] then
    local text = string.format('%d %s %.0f %.0f', level, ARGV[6 + 2 * at], arrived, now + waits)
    redis.call('HSET', waiting, gateway, text)
    redis.call('PEXPIRE', waiting, 2 * lasts)
  elseif has_room and ARGV[1] ~= '' then
    redis.call('ZADD', leases, now + lasts, ARGV[1])
    redis.call('PEXPIRE', leases, 2 * lasts)
    redis.call('HDEL', waiting, gateway)
  end
end
return {has_room and 1 or 0}
