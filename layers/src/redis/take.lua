-- GCRA: takes one request from a bucket.
-- KEYS: the bucket. ARGV: microseconds to refill one request, requests that the bucket holds.
-- Returns 1 and the requests left, or 0 and the microseconds until the next request may come.
-- The bucket's value is the time at which it will be full, in microseconds of the server's clock.
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local whole = interval * burst
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
-- After a failover the clock of the new server can be behind.
full_at = math.min(full_at, now + whole)
local next_full_at = full_at + interval
local wait = next_full_at - whole - now
if wait > 0 then
  return {0, wait}
end
local text = string.format('%.0f', next_full_at)
redis.call('SET', KEYS[1], text, 'PX', math.ceil((next_full_at - now) / 1000) + 1000)
return {1, math.floor((now + whole - next_full_at) / interval)}
