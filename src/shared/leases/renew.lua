-- Renews the leases of a gateway. One that has ended, or that Redis has lost, is added: its request is
-- still at the server.
-- KEYS: a key that shows that Redis can be written; the leases of each limit.
-- ARGV: milliseconds that a lease lasts; then for each lease: the index of its key, the lease.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasts = tonumber(ARGV[1])
redis.call('SET', KEYS[1], '1', 'PX', lasts)
for at = 2, #ARGV, 2 do
  local leases = KEYS[tonumber(ARGV[at])]
  redis.call('ZADD', leases, now + lasts, ARGV[at + 1])
  redis.call('PEXPIRE', leases, 2 * lasts)
end
return {}
