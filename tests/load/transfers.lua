-- The closed loop of generator.py for wrk: one POST /transactions at a time on each connection.
-- PAYFLOW_BENCH_USERS names a file with a user id and an access token on each line. The users take turns, and
-- there are more of them than connections, so nobody has two requests under way.

local ids, tokens, turn = {}, {}, 0
local answered, refused, example = 0, 0, ""

function setup(thread)
  measured = thread
end

function init()
  for line in io.lines(os.getenv("PAYFLOW_BENCH_USERS")) do
    local id, token = line:match("^(%S+) (%S+)$")
    ids[#ids + 1], tokens[#tokens + 1] = id, token
  end
  math.randomseed(os.time())
end

function request()
  turn = turn % #ids + 1
  -- Anybody but oneself.
  local receiver = ids[(turn + math.random(#ids - 1) - 1) % #ids + 1]
  local headers = { ["Authorization"] = "Bearer " .. tokens[turn], ["Content-Type"] = "application/json" }
  if os.getenv("PAYFLOW_BENCH_KEYS") == "1" then
    headers["Idempotency-Key"] = string.format("%d-%d-%d", os.time(), turn, math.random(2 ^ 31 - 1))
  end
  local body = string.format('{"receiver_id":"%s","amount":"%s"}', receiver, os.getenv("PAYFLOW_BENCH_AMOUNT"))
  return wrk.format("POST", "/transactions", headers, body)
end

function response(status, headers, body)
  if status == 201 then
    answered = answered + 1
  else
    refused = refused + 1
    example = status .. ": " .. body:sub(1, 300):gsub("[%c\"\\]", " ")
  end
  thread_answered, thread_refused, thread_example = answered, refused, example
end

function done(summary)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "lost": %d, "example": "%s"}\n',
    measured:get("thread_answered") or 0, measured:get("thread_refused") or 0, lost,
    measured:get("thread_example") or ""))
end
