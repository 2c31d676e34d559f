-- Takes one request from each bucket, and then reserves tokens in accounts.
--
-- All buckets give a request, or none does. Accounts are reserved after that, one by one, up to the first
-- that has too few tokens; in an account all budgets are reserved, or none.
--
-- KEYS: the buckets; then for each account the account and its open reservations. A bucket's value is the
-- time at which it will be full, in microseconds of the server's clock (GCRA). An account is a hash with
-- start (s), used (u) and reserved (r) tokens of each window, and the time of its next maintenance (next). Its
-- open reservations are sorted by the time at which they expire. They have one more member (-), which never
-- expires: without it the key would be removed with the last reservation, and the next one would not expire.
-- ARGV: one text, which is cheaper to write than many, with spaces between: the number of buckets; for each
-- bucket the microseconds to refill one request, and the requests that it holds; then for each account the id
-- of the reservation, tokens, milliseconds until it expires, and the number of budgets; for each budget its
-- window, limit, start of the window, and milliseconds until it ends.
-- Returns one text too, which is cheaper to read than a list: the number of the bucket that
-- refuses, or 0; for each bucket up to that one the requests left, the refusing one the microseconds until the
-- next request may come; then for each account up to the first that refuses 1, the reservation as it is to be
-- settled, and the tokens left in each budget; or 0, -, and the tokens left.
local call, format, max, min = redis.call, string.format, math.max, math.min
local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local answer, argument = {'0'}, string.gmatch(ARGV[1], '%S+')
-- Redis and Lua write numbers as if they had fractions, which takes several times as long. The largest limits
-- are no integers for Lua.
local function whole(number) return format(number < 1e15 and '%d' or '%.0f', number) end

local buckets, full = tonumber(argument()), {}
local known = buckets > 0 and call('MGET', unpack(KEYS, 1, buckets))
for index = 1, buckets do
  local interval, burst = tonumber(argument()), tonumber(argument())
  local size = interval * burst
  local full_at = max(tonumber(known[index] or micros), micros)
  -- After a failover the clock of the new server can be behind.
  full_at = min(full_at, micros + size) + interval
  local wait = full_at - size - micros
  if wait > 0 then
    answer[1], answer[index + 1] = whole(index), whole(wait)
    return table.concat(answer, ' ')
  end
  full[index] = full_at
  answer[index + 1] = whole(math.floor((micros + size - full_at) / interval))
end
for index = 1, buckets do
  local expires = math.ceil((full[index] - micros) / 1000) + 1000
  call('SET', KEYS[index], whole(full[index]), 'PX', whole(expires))
end

-- Gives back the reservations whose owner died. Returns whether there were any.
local function remove_lost(account, open)
  local lost = call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, 64)
  for _, reservation in ipairs(lost) do
    for window, start, tokens in string.gmatch(reservation, ';(%a+):(%-?%d+):(%d+)') do
      if tokens ~= '0' and call('HGET', account, 's' .. window) == start then
        call('HINCRBY', account, 'r' .. window, '-' .. tokens)
      end
    end
    call('ZREM', open, reservation)
  end
  return #lost > 0
end

-- Returns whether there were enough tokens.
local function reserve(account, open)
  local reservation, tokens, lasts = argument(), tonumber(argument()), tonumber(argument())
  local windows, budgets, fields, ttl = {}, {}, {'next'}, 0
  for index = 1, tonumber(argument()) do
    local name, limit, start, left = argument(), tonumber(argument()), argument(), argument()
    local window
    for _, other in ipairs(windows) do
      if other.name == name then window = other end
    end
    if not window then
      window = {name = name, start = start}
      windows[#windows + 1] = window
      local field = #fields
      fields[field + 1], fields[field + 2], fields[field + 3] = 's' .. name, 'u' .. name, 'r' .. name
    end
    budgets[index] = {limit = limit, held = min(tokens, limit), window = window}
    ttl = max(ttl, tonumber(left) + 60000)
  end

  local known, fits
  local function read()
    known, fits = call('HMGET', account, unpack(fields)), true
    for index, window in ipairs(windows) do
      local start, used, reserved = known[3 * index - 1], known[3 * index], known[3 * index + 1]
      -- The clock of another gateway may be a little ahead: then its window counts.
      if start and tonumber(start) >= tonumber(window.start) then
        window.start, window.reserved, window.is_new = start, tonumber(reserved) or 0, false
        window.taken = (tonumber(used) or 0) + window.reserved
      else
        window.taken, window.reserved, window.is_new = 0, 0, true
      end
      window.held = 0
    end
    for _, budget in ipairs(budgets) do
      if budget.limit - budget.window.taken < budget.held then fits = false end
    end
  end
  read()
  -- Each second, and before a refusal.
  local is_due = not known[1] or now >= tonumber(known[1]) or now < tonumber(known[1]) - 1000
  if (is_due or not fits) and remove_lost(account, open) then read() end

  if fits then
    for _, budget in ipairs(budgets) do budget.window.held = budget.window.held + budget.held end
    local values = {}
    for _, window in ipairs(windows) do
      local name, held, last = window.name, whole(window.held), #values
      values[last + 1], values[last + 2] = 'r' .. name, whole(window.reserved + window.held)
      if window.is_new then
        values[last + 3], values[last + 4] = 's' .. name, window.start
        values[last + 5], values[last + 6] = 'u' .. name, '0'
      end
      reservation = reservation .. ';' .. name .. ':' .. window.start .. ':' .. held
    end
    if is_due then
      values[#values + 1] = 'next'
      values[#values + 1] = whole(now + 1000)
    end
    call('HSET', account, unpack(values))
    call('ZADD', open, whole(now + lasts), reservation)
    if is_due then
      call('ZADD', open, '+inf', '-')
      -- As long as the account, whose reserved tokens only these members can give back.
      call('PEXPIRE', open, max(lasts + 60000, ttl))
      if call('PTTL', account) < ttl then call('PEXPIRE', account, ttl) end
    end
  end
  answer[#answer + 1] = fits and '1' or '0'
  answer[#answer + 1] = fits and reservation or '-'
  for _, budget in ipairs(budgets) do
    answer[#answer + 1] = whole(max(0, budget.limit - budget.window.taken - budget.window.held))
  end
  return fits
end

for index = buckets + 1, #KEYS, 2 do
  if not reserve(KEYS[index], KEYS[index + 1]) then break end
end
return table.concat(answer, ' ')
