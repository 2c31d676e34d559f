-- Adds counts to the usage of days, once for each batch.
-- KEYS: the batch; the days, hashes by key, model and number of the count.
-- ARGV: milliseconds until days expire; then for each count: index of the day, field, number to add.
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', 600000) then
  return {}
end
for at = 2, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[ARGV[at] + 1], ARGV[at + 1], ARGV[at + 2])
end
for at = 2, #KEYS do
  redis.call('PEXPIRE', KEYS[at], ARGV[1])
end
return {}
