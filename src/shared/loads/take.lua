-- Notes that a gateway begins a load, unless it does not know of another one that may make it needless.
-- KEYS: the loads of all gateways, a hash by server and model of the load's id, which is that of its gateway
-- and a number, when the load began, until when that counts, and 1 if it is complete.
-- ARGV: this gateway; the number of the load; the server and the model; milliseconds that the entry lasts; 1 if a load of the model
-- on any server counts, 0 if only loads on this server do; then the loads that the gateway knows, each with
-- its state.
-- Returns 1 or 0, then for each load of the others: server, model, id, milliseconds since it began, and its
-- state. The times are by the clock of Redis.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = {}
for at = 7, #ARGV do known[ARGV[at]] = true end
local is_free, answer = true, { '1' }
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
    local counts = server == ARGV[3] or (ARGV[6] == '1' and model == ARGV[4])
    if counts and not known[loads[i] .. '\31' .. state] then is_free = false end
  end
end
if is_free then
  local text = string.format('%s:%s %.0f %.0f 0', ARGV[1], ARGV[2], now, now + tonumber(ARGV[5]))
  redis.call('HSET', KEYS[1], ARGV[3] .. '\31' .. ARGV[4], text)
  redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[5]))
else
  answer[1] = '0'
end
return answer
