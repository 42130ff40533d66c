-- Posts the lines of a file in turn, and tells what came of it as one line of JSON.
-- Arguments: the file, then headers as "Name: value".

local requests, place = {}, 0

function init(arguments)
  local headers = { ["Content-Type"] = "application/json" }
  for name, value in pairs(wrk.headers) do headers[name] = value end
  for position = 2, #arguments do
    local name, value = arguments[position]:match("^(.-): (.*)$")
    headers[name] = value
  end
  for line in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, line)
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency)
  local errors = summary.errors
  local wrong = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"requests":%d,"wrong":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, wrong, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
