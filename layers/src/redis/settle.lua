-- Replaces a reservation by the used tokens, in the windows of the reservation.
-- KEYS: as in reserve.lua. ARGV: the reservation, the used tokens, 1 for the first attempt.
-- A repeated attempt counts only if the reservation is still open, so that nothing is counted twice.
local account, open = KEYS[1], KEYS[2]
local is_open = redis.call('ZSCORE', open, ARGV[1])
if is_open or ARGV[3] == '1' then
  for window, start, tokens in string.gmatch(ARGV[1], ';(%a+):(%-?%d+):(%d+)') do
    if redis.call('HGET', account, 's' .. window) == start then
      redis.call('HINCRBY', account, 'u' .. window, ARGV[2])
      if is_open and tokens ~= '0' then redis.call('HINCRBY', account, 'r' .. window, '-' .. tokens) end
    end
  end
end
redis.call('ZREM', open, ARGV[1])
return 1
