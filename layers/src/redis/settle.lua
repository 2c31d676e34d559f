-- Replaces reservations by the used tokens, in the windows of the reservation.
-- KEYS: for each reservation the account and its open reservations, as in admit.lua. ARGV: 1 for the first
-- attempt; then for each the reservation and the used tokens.
-- A repeated attempt counts only those that are still open, so that nothing is counted twice.
local call = redis.call
-- What is to be added to each count of the windows that are settled.
local accounts = {}
for at = 2, #ARGV, 2 do
  local account, open, reservation, used = KEYS[at - 1], KEYS[at], ARGV[at], ARGV[at + 1]
  local is_open = call('ZREM', open, reservation) == 1
  if is_open or ARGV[1] == '1' then
    local windows = accounts[account] or {}
    accounts[account] = windows
    for window, start, tokens in string.gmatch(reservation, ';(%a+):(%-?%d+):(%d+)') do
      local id = window .. ':' .. start
      local sum = windows[id] or {window = window, start = start, used = 0, freed = 0}
      windows[id] = sum
      sum.used = sum.used + used
      if is_open then sum.freed = sum.freed + tokens end
    end
  end
end
for account, windows in pairs(accounts) do
  for _, sum in pairs(windows) do
    if call('HGET', account, 's' .. sum.window) == sum.start then
      if sum.used ~= 0 then
        call('HINCRBY', account, 'u' .. sum.window, string.format('%d', sum.used))
      end
      if sum.freed ~= 0 then
        call('HINCRBY', account, 'r' .. sum.window, string.format('%d', -sum.freed))
      end
    end
  end
end
return 1
