-- Takes one request from each bucket, and then reserves tokens in accounts.
--
-- All buckets give a request, or none does. Accounts are reserved after that, one by one, up to the first
-- that has too few tokens; in an account all budgets are reserved, or none.
--
-- KEYS: the buckets; then for each account the account and its open reservations. A bucket's value is the
-- time at which it will be full, in microseconds of the server's clock (GCRA). An account is a hash with
-- start (s), used (u) and reserved (r) tokens of each window; its open reservations are sorted by the time at
-- which they expire.
-- ARGV: the number of buckets; for each bucket the microseconds to refill one request, and the requests that
-- it holds; then for each account the id of the reservation, tokens, milliseconds until it expires, and the
-- number of budgets; for each budget its window, limit, start of the window, and milliseconds until it ends.
-- Returns the number of the bucket that refuses, or 0; for each bucket up to that one the requests left, the
-- refusing one the microseconds until the next request may come; then for each account up to the first that
-- refuses 1, the reservation as it is to be settled, and the tokens left in each budget; or 0, an empty
-- text, and the tokens left.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local answer, at = {0}, 1
local function argument()
  at = at + 1
  return ARGV[at - 1]
end
local function whole(number) return string.format('%.0f', number) end

local buckets, full = tonumber(argument()), {}
for index = 1, buckets do
  local interval, burst = tonumber(argument()), tonumber(argument())
  local size = interval * burst
  local full_at = math.max(tonumber(redis.call('GET', KEYS[index]) or micros), micros)
  -- After a failover the clock of the new server can be behind.
  full_at = math.min(full_at, micros + size) + interval
  local wait = full_at - size - micros
  if wait > 0 then
    answer[1], answer[index + 1] = index, wait
    return answer
  end
  full[index] = full_at
  answer[index + 1] = math.floor((micros + size - full_at) / interval)
end
for index = 1, buckets do
  local expires = math.ceil((full[index] - micros) / 1000) + 1000
  redis.call('SET', KEYS[index], whole(full[index]), 'PX', expires)
end

-- Returns whether there were enough tokens.
local function reserve(account, open)
  -- Reservations whose owner died.
  for _, lost in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, 64)) do
    for window, start, tokens in string.gmatch(lost, ';(%a+):(%-?%d+):(%d+)') do
      if tokens ~= '0' and redis.call('HGET', account, 's' .. window) == start then
        redis.call('HINCRBY', account, 'r' .. window, '-' .. tokens)
      end
    end
    redis.call('ZREM', open, lost)
  end

  local reservation, tokens, lasts = argument(), tonumber(argument()), tonumber(argument())
  local counts, windows, budgets, fits, ttl = {}, {}, {}, true, 0
  for _ = 1, tonumber(argument()) do
    local window, limit, start, left = argument(), tonumber(argument()), argument(), argument()
    local count = counts[window]
    if not count then
      local known = redis.call('HMGET', account, 's' .. window, 'u' .. window, 'r' .. window)
      -- The clock of another gateway may be a little ahead: then its window counts.
      if known[1] and tonumber(known[1]) >= tonumber(start) then
        count = {start = known[1], taken = (tonumber(known[2]) or 0) + (tonumber(known[3]) or 0)}
      else
        count = {start = start, taken = 0, is_new = true}
      end
      count.held = 0
      counts[window] = count
      windows[#windows + 1] = window
    end
    local held = math.min(tokens, limit)
    if limit - count.taken < held then fits = false end
    budgets[#budgets + 1] = {limit = limit, held = held, count = count}
    ttl = math.max(ttl, tonumber(left) + 60000)
  end

  if fits then
    for _, budget in ipairs(budgets) do budget.count.held = budget.count.held + budget.held end
    for _, window in ipairs(windows) do
      local count = counts[window]
      local held = whole(count.held)
      if count.is_new then
        redis.call('HSET', account, 's' .. window, count.start, 'u' .. window, '0', 'r' .. window, held)
      else
        redis.call('HINCRBY', account, 'r' .. window, held)
      end
      reservation = reservation .. ';' .. window .. ':' .. count.start .. ':' .. held
    end
    redis.call('ZADD', open, now + lasts, reservation)
    redis.call('PEXPIRE', open, lasts + 60000)
    if redis.call('PTTL', account) < ttl then redis.call('PEXPIRE', account, ttl) end
  end
  answer[#answer + 1] = fits and 1 or 0
  answer[#answer + 1] = fits and reservation or ''
  for _, budget in ipairs(budgets) do
    answer[#answer + 1] = whole(math.max(0, budget.limit - budget.count.taken - budget.count.held))
  end
  return fits
end

for index = buckets + 1, #KEYS, 2 do
  if not reserve(KEYS[index], KEYS[index + 1]) then break end
end
return answer
