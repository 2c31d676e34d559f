-- Renews and ends the loads of a gateway, and returns those of the others.
-- KEYS: the loads of all gateways, see take.lua.
-- ARGV: this gateway; milliseconds that an entry lasts; then for each load of the gateway: server and model,
-- its number, milliseconds since it began, and 0 if it is in progress, 1 if it is complete, - if it has failed.
-- Returns for each load of the others: server, model, id, milliseconds since it began, and its state.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 3, #ARGV, 4 do
  local id = ARGV[1] .. ':' .. ARGV[at + 1]
  if ARGV[at + 3] == '-' then
    -- Another gateway may have begun the same load since.
    local known = redis.call('HGET', KEYS[1], ARGV[at])
    if known and string.match(known, '^(%S+)') == id then redis.call('HDEL', KEYS[1], ARGV[at]) end
  else
    local began, till = now - tonumber(ARGV[at + 2]), now + tonumber(ARGV[2])
    local text = string.format('%s %.0f %.0f %s', id, began, till, ARGV[at + 3])
    redis.call('HSET', KEYS[1], ARGV[at], text)
    redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
  end
end
local answer = {}
local loads = redis.call('HGETALL', KEYS[1])
for i = 1, #loads, 2 do
  local server, model = string.match(loads[i], '^([^\31]*)\31(.*)$')
  local id, gateway, began, till, state = string.match(loads[i + 1], '^(([^: ]+):%d+) (%d+) (%d+) (%d)$')
  if not server or not till or tonumber(till) <= now then
    redis.call('HDEL', KEYS[1], loads[i])
  elseif gateway ~= ARGV[1] then
    for _, part in ipairs({ server, model, id, string.format('%d', now - began), state }) do
      table.insert(answer, part)
    end
  end
end
return answer
