-- The next slot of an account, its correction, or what was admitted lately: `state/slots.py` on Redis, in one step.
-- KEYS: the account's hash.  ARGV: verb, keeper (a name for memory that has none), requests and tokens a minute
-- (0: no limit), requests and tokens that are asked for; then the constants of state/slots.py, in its order.
-- Returns {keeper, seconds, limit, given} or {keeper, requests a minute, tokens a minute}.
local key, verb = KEYS[1], ARGV[1]
local rpm, tpm, n_requests, n_tokens = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local BURST, AHEAD, FARTHEST = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local FIRST_SHARE, DOUBLING = tonumber(ARGV[10]), tonumber(ARGV[11])
local FIRST, FIRST_SECONDS = tonumber(ARGV[12]), tonumber(ARGV[13])
local IDLE, RECENT = tonumber(ARGV[14]), tonumber(ARGV[15])

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found = redis.call('HMGET', key, 'keeper', 'requests_at', 'tokens_at', 'started_at', 'counted_at', 'requests',
                         'tokens')
-- Memory that is new, or was flushed, begins at this moment with nothing saved up.
local keeper = found[1] or ARGV[2]
local requests_at, tokens_at = tonumber(found[2] or now), tonumber(found[3] or now)
local started_at, counted_at = tonumber(found[4] or now), math.min(tonumber(found[5] or now), now)
local requests, tokens = tonumber(found[6] or 0), tonumber(found[7] or 0)

local function remember()
    redis.call('HSET', key, 'keeper', keeper,
               'requests_at', string.format('%.6f', requests_at), 'tokens_at', string.format('%.6f', tokens_at),
               'started_at', string.format('%.6f', started_at), 'counted_at', string.format('%.6f', counted_at),
               'requests', string.format('%.6f', requests), 'tokens', string.format('%.6f', tokens))
    redis.call('EXPIRE', key, 86400)
end
local function shown(number) return string.format('%.6f', number) end
local function within(at) return math.min(math.max(at, now - BURST), now + FARTHEST) end

if verb == 'recent' then
    local decay = math.exp((counted_at - now) / RECENT)
    local seen = RECENT * (1 - math.exp(-math.max(now - started_at, 1) / RECENT))
    return {keeper, shown(60 * requests * decay / seen), shown(60 * tokens * decay / seen)}
end

if verb == 'correct' then
    if rpm > 0 then requests_at = requests_at + 60 * n_requests / rpm end
    if tpm > 0 then tokens_at = tokens_at + 60 * n_tokens / tpm end
    requests, tokens = math.max(0, requests + n_requests), math.max(0, tokens + n_tokens)
    remember()
    return {keeper, '0', '', 1}
end

if now - counted_at > IDLE then started_at = now end
started_at = math.min(started_at, now)
requests_at = within(requests_at)
if tpm > 0 then tokens_at = within(tokens_at) else tokens_at = now end
local at = math.max(now, requests_at, tokens_at)
local age = at - started_at
local share = math.min(1, FIRST_SHARE * 2 ^ (age / DOUBLING))
local first = math.huge
if age < FIRST_SECONDS then first = FIRST * 2 ^ age end
local granted = math.huge
if rpm > 0 then granted = rpm / 60 end
local requests_rate, tokens_rate = math.min(first, granted * share), math.huge
if tpm > 0 then tokens_rate = tpm * share / 60 end
-- A request that fills a slice by itself finds it empty.
local whole = 0
if n_tokens / tokens_rate > 1 - BURST then whole = BURST end
at = math.max(at, tokens_at + whole)
local limit = 'tokens/min'
if requests_at >= tokens_at + whole then limit = 'requests/min' end
if share < 1 or first < granted then limit = limit .. ' (slow start)' end
local given = 0
if at - now <= AHEAD then
    given = 1
    local decay = math.exp((counted_at - now) / RECENT)
    requests_at = math.max(requests_at, at - BURST) + n_requests / requests_rate
    tokens_at = math.max(tokens_at, at - BURST) + n_tokens / tokens_rate
    counted_at = now
    requests, tokens = requests * decay + n_requests, tokens * decay + n_tokens
    remember()
end
return {keeper, shown(at - now), limit, given}
