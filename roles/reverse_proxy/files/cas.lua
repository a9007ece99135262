-- What mod_auth_cas lacks: an answer for scripts, and a logout. settings.json in the same directory contains the
-- settings. The module keeps each session in a file, whose name is the value of the cookie.

local cjson = require "cjson"

local directory = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local file = assert(io.open(directory .. "/settings.json"))
local settings = cjson.decode(file:read("a")).own
file:close()

local function session_file(r)
  local plain = settings.cookie:gsub("%p", "%%%0")
  local id = ("; " .. (r.headers_in["Cookie"] or "")):match("; *" .. plain .. "=(%x+)")
  if id and #id == 32 and not id:find("%u") then return settings.directory .. "/" .. id end
end

local function signed_in(r)
  local path = session_file(r)
  local session = path and io.open(path)
  if not session then return false end
  local text = session:read("a")
  session:close()
  -- The module writes the time of the last use at each request. It locks the file, which this program cannot, so the
  -- module decides about a file that is being written.
  if not text:find("</cacheEntry>", 1, true) then return true end
  local issued = tonumber(text:match("<issued>(%d+)</issued>") or 0) // 1000000
  local active = tonumber(text:match("<lastactive>(%d+)</lastactive>") or 0) // 1000000
  return issued + settings.duration > os.time() and active + settings.inactivity > os.time()
end

local function from_server(r)
  return r.method == "POST" and not r.headers_in["Cookie"] and not r.headers_in["Origin"]
    and not r.headers_in["Sec-Fetch-Site"]
    and (r.headers_in["Content-Type"] or ""):find("^application/x%-www%-form%-urlencoded")
end

-- The CAS server names the ticket of a session that has ended. Only the server and the user know the ticket. The module
-- can read these messages too, but it changes the bodies of other requests then, and reads no more than 1023 bytes.
local function end_session(r)
  local message = (r:parsebody(65536) or {}).logoutRequest or ""
  local ticket = message:match("<[%w]*:?SessionIndex[^<>]*>%s*([%w.-]+)%s*<")
  local note = ticket and io.open(settings.directory .. "/." .. r:md5(ticket))
  if not note then return 204 end
  local id = note:read("a"):match("%x+")
  note:close()
  if id and #id == 32 then os.remove(settings.directory .. "/" .. id) end
  os.remove(settings.directory .. "/." .. r:md5(ticket))
  return 204
end

-- For requests of scripts: answer 401 instead of a redirect that they cannot follow. Requests of programs with a token,
-- and the hub's version, need no session.
function script(r)
  if not r.subprocess_env["hpchub_script"] or r.subprocess_env["hpchub_program"] or r.uri:match("^/hub/api/?$") then
    return apache2.DECLINED
  end
  if from_server(r) then return end_session(r) end
  return signed_in(r) and apache2.DECLINED or 401
end

function logout(r)
  local path = session_file(r)
  if path then os.remove(path) end
  r.err_headers_out["Set-Cookie"] = settings.cookie .. "=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
  r.headers_out["Location"] = settings.logout_url
  return 302
end
