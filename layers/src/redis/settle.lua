-- Replaces reservations by the used tokens, in the windows of the reservation.
-- KEYS: for each account the account and its open reservations, as in admit.lua. ARGV: one text with spaces
-- between, as there: 1 for the first attempt; then for each reservation the number of its account, counted from
-- 0, the reservation, and the used tokens.
-- A repeated attempt counts only those that are still open, so that nothing is counted twice.
-- Returns one text with the counts of the accounts after that: for each window that a reservation names the
-- number of the account, the window, its start, and the used and reserved tokens together.
-- A reservation that nobody holds, of no tokens, changes nothing: it asks for the counts.
local call = redis.call
local argument = string.gmatch(ARGV[1], '%S+')
local is_first = argument() == '1'
-- What is to be added to each count of the windows that are settled.
local accounts = {}
for number in argument do
  local account, open = KEYS[2 * number + 1], KEYS[2 * number + 2]
  local reservation, used = argument(), argument()
  local is_open = call('ZREM', open, reservation) == 1
  local settled = accounts[account] or {number = number, windows = {}, names = {}}
  accounts[account] = settled
  for window, start, tokens in string.gmatch(reservation, ';(%a+):(%-?%d+):(%d+)') do
    settled.names[window] = true
    if is_open or is_first then
      local id = window .. ':' .. start
      local sum = settled.windows[id] or {window = window, start = start, used = 0, freed = 0}
      settled.windows[id] = sum
      sum.used = sum.used + used
      if is_open then sum.freed = sum.freed + tokens end
    end
  end
end
local answer = {}
for account, settled in pairs(accounts) do
  for _, sum in pairs(settled.windows) do
    if (sum.used ~= 0 or sum.freed ~= 0) and call('HGET', account, 's' .. sum.window) == sum.start then
      if sum.used ~= 0 then
        call('HINCRBY', account, 'u' .. sum.window, string.format('%d', sum.used))
      end
      if sum.freed ~= 0 then
        call('HINCRBY', account, 'r' .. sum.window, string.format('%d', -sum.freed))
      end
    end
  end
  for name in pairs(settled.names) do
    local counts = call('HMGET', account, 's' .. name, 'u' .. name, 'r' .. name)
    if counts[1] then
      local total = (tonumber(counts[2]) or 0) + (tonumber(counts[3]) or 0)
      answer[#answer + 1] =
        string.format('%s %s %s %.0f', settled.number, name, counts[1], math.max(0, total))
    end
  end
end
return table.concat(answer, ' ')
