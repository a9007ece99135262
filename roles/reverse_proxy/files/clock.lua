-- How far the clock of a SAML provider is from this host's: a filter that reads the answer of the provider on its way to
-- the module. The answer is not verified here, so that this decides nothing. It explains why the module refuses an answer.

local LONGEST = 8192
local TOLERANCE = 60 -- the module has the same

local function issued(r, body)
  local encoded = ("&" .. body):match("&SAMLResponse=([^&]*)")
  if not encoded then return nil end
  encoded = encoded:gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end):gsub("[^%w+/]", "")
  local text = r:base64_decode(encoded:sub(1, #encoded // 4 * 4))
  local year, month, day, hour, minute, second =
    text:match('<[%w]*:?Response%f[%s][^<>]-%sIssueInstant="(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)')
  if not year then return nil end
  return os.time {year = year, month = month, day = day, hour = hour, min = minute, sec = second, isdst = false}
end

function read_clock(r)
  coroutine.yield()
  local body, time = "", nil
  while bucket do
    if not time and #body < LONGEST then
      body = (body .. bucket):sub(1, LONGEST)
      time = issued(r, body)
      if time then
        local ahead = time - os.time(os.date("!*t"))
        if math.abs(ahead) > TOLERANCE then
          r.subprocess_env["HPCHUB_CLOCK"] = ("%d"):format(math.abs(ahead))
          r:warn(("The answer of the SAML provider was issued %d s %s. If it was not delayed, compare the clocks of the "
            .. "provider and of this host."):format(math.abs(ahead), ahead > 0 and "in the future" or "ago"))
        end
      end
    end
    coroutine.yield(bucket)
  end
  coroutine.yield()
end
