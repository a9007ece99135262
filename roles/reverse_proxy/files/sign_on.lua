-- After every authentication, and before any authorisation: derive the account's name from the name that the single
-- sign-on reports, and decide whether this person may use the service.
--
-- settings.json in the same directory contains the settings. src/hpchub/model/user_mapping.py specifies the steps.
-- Nothing but DECLINED leads on to Apache's own rules, which admit nobody without HPCHUB_PERMITTED.

local cjson = require "cjson"

local directory = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local file = assert(io.open(directory .. "/settings.json"))
local settings = cjson.decode(file:read("a"))
file:close()

local LONGEST = 255
local SHOWN = 60

local function set(list)
  local found = {}
  for _, item in ipairs(list) do found[item] = true end
  return found
end

local own = settings.own or {}
local users, groups, factors = set(settings.users), set(settings.groups), set(settings.second_factors)

-- Letters of ASCII only, whatever the locale of Apache is.
local function lower(text)
  return (text:gsub("[A-Z]", function(letter) return string.char(letter:byte() + 32) end))
end

local function base64url(r, text)
  return (r:base64_encode(text):gsub("+", "-"):gsub("/", "_"))
end

local function decoded(r, text)
  local plain = text:gsub("-", "+"):gsub("_", "/")
  local good, value = pcall(cjson.decode, r:base64_decode(plain .. ("="):rep(-#plain % 4)))
  return good and type(value) == "table" and value or {}
end

-- A variable or a header with one value is text, and with several values a list. Identical values are one.
local function one_or_more(text)
  local separator = settings.values_separator or ""
  if not text or text == "" or separator == "" then return text end
  local list, seen = {}, {}
  for item in (text .. separator):gmatch("(.-)" .. separator) do
    if not seen[item] then list[#list + 1], seen[item] = item, true end
  end
  return #list == 1 and list[1] or list
end

local function header(r, name)
  return name and r.headers_in[name] or ""
end

-- Some modules encode the values, so that no value contains the separator.
local function unescaped(value)
  if type(value) == "table" then
    for index, item in ipairs(value) do value[index] = unescaped(item) end
  elseif value and own.encoded then
    value = value:gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)
  end
  return value ~= "" and value or nil
end

-- The claims. Some providers give JSON objects, others one variable or one header for each claim.
local function read_claims(r)
  local claims = {}
  for _, name in ipairs(settings.claims_json) do
    local text = r.subprocess_env[name]
    if text then
      for claim, value in pairs(decoded(r, text)) do claims[claim] = value end
    end
  end
  for claim, name in pairs(settings.claims_variables) do
    claims[claim] = one_or_more(r.subprocess_env[name])
  end
  for claim, name in pairs(settings.claims_headers or {}) do
    claims[claim] = unescaped(one_or_more(r.headers_in[name]))
  end
  -- The module keeps the assertion whose signature it has verified, as lasso has written it.
  local session = (settings.claims_session or "") ~= "" and r.subprocess_env[settings.claims_session]
  if session then claims.acr = r:base64_decode(session):match("AuthnContextClassRef>([^<]*)</") end
  r.notes["hpchub_provider"] = r.subprocess_env["HPCHUB_SAML_IDP"] or header(r, own.provider)
  for name in pairs(r:headers_in_table()) do -- these headers go no further
    for _, prefix in ipairs(settings.claims_prefixes or {}) do
      if name:lower():find(prefix, 1, true) == 1 then r.headers_in[name] = nil end
    end
  end
  return claims
end

-- A claim is text, a number, or a list of these. Text is one value, unless the site names a separator.
local function values(claim, separator)
  local found = {}
  local function add(item)
    if math.type(item) == "integer" or (math.type(item) == "float" and item == math.floor(item)) then
      found[#found + 1] = string.format("%d", item)
    elseif type(item) == "string" then
      found[#found + 1] = item
    end
  end
  if type(claim) == "string" and separator ~= "" then
    local from = 1
    repeat
      local first, last = claim:find(separator, from, true)
      add(claim:sub(from, (first or 0) - 1))
      from = (last or 0) + 1
    until not first
  elseif type(claim) == "table" then
    for _, item in ipairs(claim) do add(item) end
  else
    add(claim)
  end
  return found
end

local function any(list, permitted)
  for _, item in ipairs(list) do
    if permitted[item] then return true end
  end
  return false
end

local function ask(step, name)
  require "socket"
  local unix = require "socket.unix"
  local connection = (type(unix) == "table" and unix.stream or unix)()
  if not connection then return nil, "unknown" end
  connection:settimeout((step.timeout or 5) + 1)
  if not connection:connect(settings.command_socket) or not connection:send(name) then return nil, "unknown" end
  connection:shutdown("send")
  local answer = connection:receive("*a")
  connection:close()
  local state, account = (answer or ""):match("^(%l+) ?([^\n]*)\n$")
  if state == "account" then return account end
  return nil, state == "none" and "command" or "unknown"
end

local function apply(r, step, name)
  if step.strip_realm then
    local user, realm = name:match("^([^@]+)@(.*)$")
    if user and set(step.strip_realm)[realm] then return user end
    return nil, "realm"
  elseif step.fold_case then
    return lower(name)
  elseif step.pattern then
    local found = r:regex(name, "^(?:" .. step.pattern:gsub("^%^", ""):gsub("%$$", "") .. ")$")
    if not found then return nil, "pattern" end
    return (step.replacement:gsub("\\(%d)", function(number) return found[tonumber(number)] or "" end))
  elseif step.table then
    return step.table[name], "table"
  elseif step.command then
    return ask(step, name)
  end
  return name -- the step "claim"
end

-- A provider may only report names with its own scopes, which follow the @. They are in a file for each provider that
-- may sign users in, which changes with the metadata. An asterisk stands for any name.
local function in_scope(r, received)
  if not own.scopes then return true end
  local found = io.open(("%s/%s"):format(own.scopes, r:sha1(r.notes["hpchub_provider"])))
  if not found then return false end
  local realm = received:match("^[^@]+@([^@]+)$")
  local permitted = false
  for line in found:lines() do permitted = permitted or line == "*" or line == realm end
  found:close()
  return permitted
end

-- With several issuers, nobody else can have the names and the groups of one of them: its key follows each.
function qualify(claims)
  local key = own.issuers[claims.iss or ""]
  local list = values(claims[settings.groups_claim], settings.groups_separator)
  for index, group in ipairs(list) do list[index] = ("%s@%s"):format(group, key) end
  claims[settings.groups_claim] = #list > 0 and list or nil
  return key
end

-- Return the account, or nothing and the reason.
function map_name(r, received)
  if received == "" or #received > LONGEST or received:find("[%z\1-\31\127]") then return nil, "characters" end
  -- The hub could not read anything else than UTF-8. Lua accepts halves of characters, which UTF-8 does not contain.
  if not utf8.len(received) or received:find("\xED[\xA0-\xBF]") then return nil, "characters" end
  local name, reason = received, nil
  for _, step in ipairs(settings.steps) do
    name, reason = apply(r, step, name)
    if not name or name == "" then return nil, reason or "pattern" end
  end
  return name
end

-- What the hub knows the person by. If the mapping ignores case, the same person may sign in with another one.
local function person_key(received)
  for _, step in ipairs(settings.steps) do
    if step.fold_case then return lower(received) end
  end
  return received
end

-- Letters that a page can show, shortened at the end of a character.
local function shown(text)
  text = text:gsub("[%z\1-\31\127]", "?")
  if #text <= SHOWN then return text end
  local last = SHOWN
  while last > 0 and (text:byte(last + 1) & 0xC0) == 0x80 do last = last - 1 end
  return text:sub(1, last) .. "..."
end

local function refuse(r, reason, received)
  r.subprocess_env["HPCHUB_REFUSED"] = reason
  r:warn(("Sign-in refused: %s gives no account to %q (%s)"):format(settings.provider, shown(received), reason))
  if r.uri:match("^/hub/logout/?$") then
    r.headers_out["Location"] = "/sso/end"
    return 302
  end
  return reason == "unknown" and 503 or 403
end

-- mod_auth_openidc 2.4.17 gives nobody's requests an empty name: at its own address, where it answers itself, and where
-- it would let the user choose a provider, but only after Apache's own rules.
local function unknown_user(r)
  if r.uri == own.callback then return apache2.DECLINED end
  if not own.choice then return refuse(r, "attribute", "") end
  local target = (own.url .. r.unparsed_uri):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end)
  r.err_headers_out["Location"] = ("%s?target_link_uri=%s"):format(own.choice, target)
  r.err_headers_out["Cache-Control"] = "no-store"
  return 302
end

function sign_on(r)
  if not r.user or (own.session and header(r, own.session) == "") then return apache2.DECLINED end
  if r.user == "" and own.callback then return unknown_user(r) end
  local claims = read_claims(r)
  local received = r.user
  if settings.user_claim ~= "" then
    local claim = claims[settings.user_claim]
    received = type(claim) == "string" and claim or ""
  end
  r.subprocess_env["HPCHUB_RECEIVED"] = shown(received)
  if settings.user_claim ~= "" and received == "" then return refuse(r, "attribute", r.user) end
  if own.issuers and not qualify(claims) then return refuse(r, "realm", received) end
  if own.issuers then received = received .. "@" .. own.issuers[claims.iss] end
  r.subprocess_env["HPCHUB_RECEIVED"] = shown(received)
  if not in_scope(r, received) then return refuse(r, "realm", received) end
  local account, reason = map_name(r, received)
  if not account then return refuse(r, reason, received) end
  local proofs = values(claims.acr, "")
  for _, item in ipairs(values(claims.amr, "")) do proofs[#proofs + 1] = item end
  if next(factors) and not any(proofs, factors) then return refuse(r, "second_factor", received) end
  r.user = account
  r.notes["hpchub_received"] = received
  if settings.everybody or users[account] or any(values(claims[settings.groups_claim], settings.groups_separator), groups) then
    r.subprocess_env["HPCHUB_PERMITTED"] = "yes"
  end
  r.subprocess_env["HPCHUB_SIGN_ON"] = base64url(r, cjson.encode {
    provider = settings.provider, claim = settings.source, received = person_key(received),
    second_factor = #proofs > 0 and proofs or nil,
  })
  if own.issuers or next(settings.claims_variables) or next(settings.claims_headers or {}) then
    r.subprocess_env["HPCHUB_CLAIMS"] = base64url(r, cjson.encode(claims))
  end
  return apache2.DECLINED
end
