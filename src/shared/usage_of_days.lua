-- KEYS: days. Returns the fields and counts of each, after its index.
local answer = {}
for index, day in ipairs(KEYS) do
  for at, text in ipairs(redis.call('HGETALL', day)) do
    if at % 2 == 1 then table.insert(answer, tostring(index)) end
    table.insert(answer, text)
  end
end
return answer
