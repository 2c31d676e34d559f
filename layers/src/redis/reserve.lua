-- Reserves tokens in all budgets of an account, or in none.
-- KEYS: the account, a hash with start (s), used (u) and reserved (r) tokens of each window; its open
-- reservations, sorted by the time at which they expire.
-- ARGV: id of the reservation, tokens, milliseconds until it expires; then for each budget: window, limit,
-- start of the window, milliseconds until the window ends.
-- Returns 1, the reservation as it is to be settled, and the tokens left in each budget; or 0, an empty
-- text, and the tokens left.
local account, open = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end

-- Reservations whose owner died.
for _, lost in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', 0, 64)) do
  for window, start, tokens in string.gmatch(lost, ';(%a+):(%-?%d+):(%d+)') do
    if tokens ~= '0' and redis.call('HGET', account, 's' .. window) == start then
      redis.call('HINCRBY', account, 'r' .. window, '-' .. tokens)
    end
  end
  redis.call('ZREM', open, lost)
end

local tokens, lasts = tonumber(ARGV[2]), tonumber(ARGV[3])
local counts, limits, windows, fits, ttl = {}, {}, {}, true, 0
for at = 4, #ARGV, 4 do
  local window, limit, start = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
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
  end
  if limit - count.taken < math.min(tokens, limit) then fits = false end
  table.insert(limits, limit)
  table.insert(windows, window)
  ttl = math.max(ttl, tonumber(ARGV[at + 3]) + 60000)
end

local answer = {'0', ''}
if fits then
  for index, window in ipairs(windows) do
    counts[window].held = counts[window].held + math.min(tokens, limits[index])
  end
  local reservation = ARGV[1]
  for window, count in pairs(counts) do
    if count.is_new then
      redis.call('HSET', account, 's' .. window, count.start, 'u' .. window, '0', 'r' .. window, '0')
    end
    redis.call('HINCRBY', account, 'r' .. window, whole(count.held))
    reservation = reservation .. ';' .. window .. ':' .. count.start .. ':' .. whole(count.held)
  end
  redis.call('ZADD', open, now + lasts, reservation)
  redis.call('PEXPIRE', open, lasts + 60000)
  if redis.call('PTTL', account) < ttl then redis.call('PEXPIRE', account, ttl) end
  answer = {'1', reservation}
end
for index, window in ipairs(windows) do
  local count = counts[window]
  table.insert(answer, whole(math.max(0, limits[index] - count.taken - count.held)))
end
return answer
