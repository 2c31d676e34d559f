-- Replaces reservations by the used tokens, in the windows of the reservation.
-- KEYS: for each reservation the account and its open reservations, as in admit.lua. ARGV: 1 for the first
-- attempt; then for each the reservation and the used tokens.
-- A repeated attempt counts only those that are still open, so that nothing is counted twice.
for at = 2, #ARGV, 2 do
  local account, open, reservation, used = KEYS[at - 1], KEYS[at], ARGV[at], ARGV[at + 1]
  local is_open = redis.call('ZREM', open, reservation) == 1
  if is_open or ARGV[1] == '1' then
    for window, start, tokens in string.gmatch(reservation, ';(%a+):(%-?%d+):(%d+)') do
      if redis.call('HGET', account, 's' .. window) == start then
        if used ~= '0' then redis.call('HINCRBY', account, 'u' .. window, used) end
        if is_open and tokens ~= '0' then redis.call('HINCRBY', account, 'r' .. window, '-' .. tokens) end
      end
    end
  end
end
return 1
