-- Sign-in with a page of this service, for providers that check passwords or tickets and have no sessions of their own.
--
-- Apache's modules check the password or the ticket. This program passes the password of the page on to them, slows
-- down guessing, and keeps the session: a file in a directory that only Apache can read. The browser has a random
-- token, and the name of the file is its hash. No file and no cookie contains a password.

local cjson = require "cjson"

local directory = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local file = assert(io.open(directory .. "/settings.json"))
local everything = cjson.decode(file:read("a"))
local settings = everything.form
file:close()

local LONGEST = 255
-- Attempts that cost nothing, and the longest wait for the next one in seconds, for an account and for an address.
local LIMITS = {account = {free = 5, most = 300}, address = {free = 30, most = 60}}
local FORGET = 3600
local COOKIE = settings.cookie .. "=%s; Path=/; Secure; HttpOnly; SameSite=Lax"

local function read(path)
  local found = io.open(path)
  if not found then return nil end
  local text = found:read("a")
  found:close()
  return text
end

local function write(path, text, mode)
  local made = assert(io.open(path, mode))
  assert(made:write(text))
  assert(made:close())
end

local function random(length)
  local source = assert(io.open("/dev/urandom", "rb"))
  local text = source:read(length):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
  source:close()
  return text
end

-- Other requests read the file meanwhile, so it must never be empty.
local function replace(path, text)
  local new = path .. "." .. random(8)
  write(new, text, "w")
  assert(os.rename(new, path))
end

local function path_of(r, kind, name) return ("%s/%s-%s"):format(settings.directory, kind, r:sha1(name)) end

local function token(r)
  local found, number = nil, 0
  for name, value in (r.headers_in["Cookie"] or ""):gmatch("([^;,%s]+)=([^;,%s]*)") do
    if name == settings.cookie then found, number = value, number + 1 end
  end
  return number == 1 and found:match("^%x+$") and #found == 64 and found or nil
end

local function forget(r, name)
  os.remove(path_of(r, "session", name))
  os.remove(path_of(r, "seen", name))
end

local function load_session(r, name)
  local good, session = pcall(cjson.decode, read(path_of(r, "session", name)) or "")
  local seen = tonumber(read(path_of(r, "seen", name)) or "")
  if not good or type(session) ~= "table" or not seen then return nil end
  -- A name that another provider has confirmed may be somebody else's here.
  if session.provider ~= everything.provider then
    forget(r, name)
    return nil
  end
  local now = os.time()
  if now < session.created - 60 or now - session.created >= settings.total or now - seen >= settings.idle then
    forget(r, name)
    return nil
  end
  -- The time of the last use is another file. So a request cannot restore a session that has just been ended.
  if now - seen >= math.min(60, settings.idle // 4) then replace(path_of(r, "seen", name), tostring(now)) end
  return session
end

local function base64url(r, text) return (r:base64_encode(text):gsub("+", "-"):gsub("/", "_")) end

-- The user of the session, at every path that needs a sign-on.
function check_session(r)
  local name = token(r)
  local session = name and load_session(r, name)
  if session then
    r.user = session.received
    r.subprocess_env["HPCHUB_SESSION"] = base64url(r, cjson.encode(session.claims))
    return apache2.OK
  end
  if r.subprocess_env["HPCHUB_SCRIPT"] then return 401 end
  local from = r.unparsed_uri:gsub("[^%w%-._~/]", function(c) return ("%%%02X"):format(c:byte()) end)
  r.err_headers_out["Location"] = ("%s?next=%s"):format(settings.start, from)
  r.err_headers_out["Cache-Control"] = "no-store"
  return 302
end

-- Attempts are lines in a file: "F TIME ID" before the password is checked, and "S TIME 0" after it was right. Lines are
-- appended, so that no attempt is lost if many come at once. Whether an attempt may go on follows from the lines before.
local function pause_after(count, limit)
  return count >= limit.free and math.min(2 ^ math.min(count - limit.free + 1, 10), limit.most) or 0
end

local function wait(text, limit, now, own)
  local count, last = 0, 0
  local function left(at)
    if at - last > FORGET then count = 0 end
    local pause = pause_after(count, limit)
    return pause > 0 and math.max(0, last + pause - at) or 0
  end
  for kind, at, id in (text or ""):gmatch("(%u) (%d+) (%x+)\n") do
    at = tonumber(at)
    local rest = left(at)
    if id == own then return rest end
    if kind == "S" then
      count = math.max(0, count - 1)
    elseif rest == 0 then
      count, last = count + 1, at
    end
  end
  return left(now)
end

local function try(r, kind, name)
  local path, limit, now = path_of(r, kind, name), LIMITS[kind], os.time()
  local first = wait(read(path), limit, now)
  if first > 0 then return first end
  local own = random(8)
  write(path, ("F %d %s\n"):format(now, own), "a")
  return wait(read(path), limit, now, own)
end

local function succeeded(r, kind, name) write(path_of(r, kind, name), ("S %d 0\n"):format(os.time()), "a") end

local function account_of(name)
  local user, realm = name:match("^([^@]*)@(.*)$")
  if not next(settings.realms) then return name end
  if not user then return name .. "@" .. settings.realms[1] end
  for _, known in ipairs(settings.realms) do
    if realm == known then return name end
  end
  return nil -- no other realm's server is asked
end

-- Directories ignore case and spaces, and take many other letters for those of ASCII. So all such spellings are one.
local function throttle_key(typed)
  if typed:find("[\128-\255]") then return "\0" end
  return (typed:lower():gsub("@.*$", ""):gsub("%s", ""))
end

local function unsafe(name)
  return not name or name == "" or #name > LONGEST or name:find("[%z\1-\31\127:]") ~= nil
end

-- Before Apache checks a ticket. Later, the request has no cookie of the session any more.
function begin(r)
  r.notes["hpchub_former"] = token(r) or ""
  return apache2.DECLINED
end

-- Before Apache checks the password of the page.
function prepare(r)
  begin(r)
  r.headers_in["Authorization"] = nil
  if r.method ~= "POST" then return apache2.DECLINED end
  if r.headers_in["Origin"] ~= settings.origin then
    r.subprocess_env["hpchub_foreign_page"] = "1"
    return 403
  end
  r.subprocess_env["HPCHUB_STARTED"] = ("%d"):format(r:clock())
  local form = r:parsebody(8192)
  local typed = (form.username or ""):match("^%s*(.-)%s*$")
  local password = form.password or ""
  local key = throttle_key(typed)
  local pause = math.max(try(r, "address", r.useragent_ip), try(r, "account", key))
  if pause > 0 then
    r.err_headers_out["Retry-After"] = ("%d"):format(pause)
    r.subprocess_env["HPCHUB_PAUSE"] = ("%d"):format(pause)
    return 429
  end
  local name = account_of(typed)
  -- Many directories take an empty password for an anonymous question, which succeeds.
  if unsafe(name) or password == "" or password:find("%z") then return 401 end
  r.notes["hpchub_account"] = key
  r.headers_in["Authorization"] = "Basic " .. r:base64_encode(name .. ":" .. password)
  return apache2.DECLINED
end

-- After Apache has accepted the password or the ticket.
function finish(r)
  if r.method ~= "POST" and r.uri == "/sso/sign-in" then return apache2.DECLINED end -- the page itself
  if not r.user or not r.notes["hpchub_received"] then return 403 end
  local key = r.notes["hpchub_account"]
  if key then
    succeeded(r, "account", key)
    succeeded(r, "address", r.useragent_ip)
  end
  local former = r.notes["hpchub_former"] or ""
  if former ~= "" then forget(r, former) end
  local name = random(32)
  local claims = {}
  for claim, variable in pairs(settings.claims) do claims[claim] = r.subprocess_env[variable] end
  local now = os.time()
  local session = cjson.encode {
    provider = everything.provider, received = r.notes["hpchub_received"], created = now, claims = claims,
  }
  write(path_of(r, "seen", name), tostring(now), "w")
  write(path_of(r, "session", name), session, "w")
  local following = (r.args or ""):match("^next=([^&]*)$") or ""
  following = following:gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)
  if not following:match("^/[^/\\%c]") or following:find("[%c\\%s]") then following = "/hub/" end
  r.err_headers_out["Set-Cookie"] = COOKIE:format(name)
  r.err_headers_out["Location"] = following
  r.err_headers_out["Cache-Control"] = "no-store"
  return 303
end

function sign_out(r)
  local name = token(r)
  if name then forget(r, name) end
  r.err_headers_out["Set-Cookie"] = COOKIE:format("gone"):gsub("=gone;", "=; Max-Age=0;")
  r.err_headers_out["Location"] = "/sso/signed-out"
  return 302
end

-- The answer to a wrong password takes as long as that to an unknown name.
function answer_late(r)
  local started = tonumber(r.subprocess_env["REDIRECT_HPCHUB_STARTED"])
  if started then
    local rest = started + settings.delay * 1000 - r:clock()
    if rest > 0 then r.usleep(math.floor(rest)) end
  end
  return apache2.DECLINED
end
