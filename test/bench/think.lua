-- wrk: each connection waits between answer and request, for a time that is exponentially distributed with the mean of the
-- first argument in milliseconds. Prints p50 and p99 in microseconds, requests, microseconds, errors.
local mean

function init(args)
  mean = tonumber(args[1])
  math.randomseed(os.time())
end

function delay()
  return math.floor(0.5 - mean * math.log(1 - math.random()))
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("meshseal %d %d %d %d %d", latency:percentile(50), latency:percentile(99),
    summary.requests, summary.duration, failed))
end
