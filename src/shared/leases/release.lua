-- Releases leases.
-- KEYS: the leases of each limit. ARGV: for each lease: the index of its key, the lease.
for at = 1, #ARGV, 2 do
  redis.call('ZREM', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
end
return {}
