-- Adds counts to the usage of days, once for each batch.
-- KEYS: the number of the last batch of this sender; the days, hashes by key, model and number of the count.
-- ARGV: milliseconds until they expire; the number of this batch; then for each count: index of the day, field,
-- number to add.
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[2]) then
  return {}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
for at = 3, #ARGV, 3 do
  redis.call('HINCRBY', KEYS[ARGV[at] + 1], ARGV[at + 1], ARGV[at + 2])
end
for at = 2, #KEYS do
  redis.call('PEXPIRE', KEYS[at], ARGV[1])
end
return {}
