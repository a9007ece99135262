"""The mutants of what all sign-ons share: whose an account is, and a directory of accounts that does not answer."""

from __future__ import annotations

from .mutants import HandWritten

_HUB = "src/hpchub/hub"
_ACCESS = f"{_HUB}/access_rules.py"
_APACHE = f"{_HUB}/authenticator.py"
_GROUPS = f"{_HUB}/unix_groups.py"
_OWNER = ("tests/unit/test_hub_sign_on.py",)
_SLOW = ("tests/unit/test_slow_directory.py",)
_CACHE = ("tests/unit/test_unix_groups.py",)


def _owner(name: str, old: str, new: str, keyword: str, module: str = "hub_sign_on") -> HandWritten:
    return HandWritten(name, f"{_HUB}/{module}.py", old, new, _OWNER, keyword)


_LUA = "roles/reverse_proxy/files"
_MAPPING = ("tests/unit/test_sign_on.py",)
_DOORS = ("tests/unit/test_doors.py",)
_SHIBD = ("tests/repo/test_shibboleth_files.py",)


def _mapping(name: str, old: str, new: str, keyword: str = "", tests: tuple[str, ...] = _MAPPING) -> HandWritten:
    return HandWritten(name, f"{_LUA}/sign_on.lua", old, new, tests, keyword)


def _form(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, f"{_LUA}/sign_in.lua", old, new, _DOORS, keyword)


SIGN_ON = (
    _mapping("control-characters", 'received:find("[%z\\1-\\31\\127]")', "false", "maps_names"),
    _mapping("long-names", "#received > LONGEST", "false", "maps_names"),
    _mapping("text-only", "not utf8.len(received)", "false", "no_text"),
    _mapping("whole-characters", 'received:find("\\xED[\\xA0-\\xBF]")', "false", "no_text"),
    _mapping("realm", "if user and set(step.strip_realm)[realm] then", "if user then", "maps_names"),
    _mapping("whole-name", """.. ")$")""", """.. ")")""", "maps_names"),
    _mapping("table", "return step.table[name],", "return step.table[name] or name,", "maps_names"),
    _mapping(
        "command-without-an-answer", 'return nil, state == "none" and', 'return name, state == "none" and', "maps_names"
    ),
    _mapping("case-of-ascii-only", 'text:gsub("[A-Z]",', 'text:gsub("[A-Z\\195]",', "maps_names"),
    _mapping("one-spelling", "if step.fold_case then return lower(received) end", "", "one_spelling"),
    _mapping("no-name", 'if not name or name == "" then', "if not name then", "maps_names"),
    _mapping("one-name", 'type(claim) == "string" and claim or ""', "tostring(claim)", "not_a_name"),
    _mapping("second-factor", "if next(factors) and not any(proofs, factors) then", "if false then", "second_factor"),
    _mapping("groups", "if settings.everybody or users[account] or any(", "if true or any(", "whole_name"),
    _mapping("unknown-user", 'if r.user == "" and own.callback then', "if false then", "does_not_know"),
    _mapping("own-address", "if r.uri == own.callback then", "if true then", "does_not_know"),
    _mapping("refused", 'return reason == "unknown" and 503 or 403', "return apache2.DECLINED", "maps_names"),
    _form("own-page", 'if r.headers_in["Origin"] ~= settings.origin then', "if false then", "local and another_host"),
    _form("pause", "  if pause > 0 then\n    r.err", "  if false then\n    r.err", "local and guessing"),
    _form(
        "pause-of-an-address",
        'math.max(try(r, "address", r.useragent_ip), ',
        "math.max(0, ",
        "local and from_an_address",
    ),
    _form("spellings", "  local key = throttle_key(typed)\n", "  local key = typed\n", "local and spelling"),
    _form("other-letters", """if typed:find("[\\128-\\255]") then return "\\0" end""", "", "local and spelling"),
    _form("idle-time", " or now - seen >= settings.idle", "", "local and idle"),
    _form("total-time", " or now - session.created >= settings.total", "", "local and idle"),
    _form(
        "provider-of-the-session",
        "if session.provider ~= everything.provider then",
        "if false then",
        "local and another_provider",
    ),
    _form(
        "one-step",
        'replace(path_of(r, "seen", name), tostring(now))',
        'write(path_of(r, "seen", name), tostring(now), "w")',
        "local and one_step",
    ),
    HandWritten(
        "incomplete-session",
        f"{_LUA}/cas.lua",
        'if not text:find("</cacheEntry>", 1, true) then return true end',
        "",
        ("tests/unit/test_door_cas.py",),
        "incomplete_session",
    ),
    HandWritten(
        "shibboleth/key-is-missing",
        f"{_LUA}/saml_key.py",
        'return f"shibd cannot read {path}: {error.strerror}{fix}"',
        'return ""',
        _SHIBD,
        "missing or no-certificate",
    ),
    HandWritten(
        "shibboleth/other-key",
        f"{_LUA}/saml_key.py",
        'context.load_cert_chain(certificate, key, password="")',
        "pass",
        _SHIBD,
        "other-key or no-key or encrypted",
    ),
    HandWritten(
        "shibboleth/key-is-checked",
        "roles/reverse_proxy/templates/shibd.conf.j2",
        "ExecStartPre=/usr/bin/python3",
        "ExecStartPre=-/usr/bin/python3",
        _SHIBD,
        "starts_only",
    ),
    HandWritten(
        "shibboleth/expired-metadata",
        "roles/reverse_proxy/templates/sso_shibboleth.conf.j2",
        'RewriteRule "^/(hub(?!/(api|metrics|static|logo|health)(/|$))|user)(/|$)" "-" [R=503',
        'RewriteRule "^/none$" "-" [R=503',
        ("tests/unit/test_door_saml.py",),
        "shibboleth and metadata_has_expired",
    ),
    HandWritten(
        "key-of-the-document",
        f"{_LUA}/saml_metadata.py",
        """, "--enabled-key-data"]
        command += ["raw-x509-cert", "--pubkey""",
        """]
        command += ["--pubkey""",
        ("tests/unit/test_saml_metadata.py",),
        "own-key",
    ),
    HandWritten(
        "unreadable-sign-on",
        _APACHE,
        "if told and sign_on is None:",
        "if False:",
        ("tests/unit/test_sign_in.py",),
        "cannot_read_who",
    ),
    HandWritten(
        "half-of-a-character",
        "src/hpchub/model/user_mapping.py",
        '        raise RefusedName("characters") from None\n',
        "        length = 1\n",
        ("tests/unit/test_user_mapping.py",),
        "half_of",
    ),
    HandWritten(
        "spellings-in-the-hub",
        f"{_HUB}/password_sign_on.py",
        'return "".join(name.lower().split()) if name.isascii() else ""',
        "return name.casefold()",
        ("tests/unit/test_password_sign_on.py",),
        "spellings",
    ),
    _owner(
        "same-person",
        'if other_owner(handler.db, identity["name"], identity["auth_state"]["sign_on"]):',
        "if False:",
        "person_who_may_not_have_it",
    ),
    _owner("same-person-later", "if self.belongs_to_another(handler, identity):", "if False:", "belongs_to_somebody"),
    _owner(
        "released-account",
        'if owner(handler.db, user.name, identity["auth_state"]["sign_on"]) is None:',
        "if False:",
        "needs_a_new_sign_in",
    ),
    _owner(
        "account-is-taken",
        "(sign_on and take(handler.db, name, sign_on))",
        "False",
        "during_the_sign_in_of_the_first",
        "access_rules",
    ),
    _owner("id-is-missing", "return found.claim == SUBJECT", "return False", "one_person_of_a_provider", "identities"),
    HandWritten(
        "sign-in-takes-too-long",
        f"{_HUB}/oauth_sign_on.py",
        ' and int(each.partition(":")[0]) > since',
        "",
        _OWNER,
        "another_one_begins",
    ),
    HandWritten(
        "answer-is-valid-once",
        f"{_HUB}/oauth_sign_on.py",
        "self.remember([each for each in begun if each not in mine])",
        "pass",
        _OWNER,
        "several_tabs",
    ),
    HandWritten(
        "cookie-of-begun-sign-ins",
        f"{_HUB}/oauth_sign_on.py",
        "while len(begun) > 1 and sum(map(len, begun)) > STATES_LENGTH:",
        "while False:",
        _OWNER,
        "long_addresses",
    ),
    HandWritten(
        "nobody-signs-in-without-an-answer",
        _APACHE,
        '            raise NoAnswer(identity["name"])\n',
        "            pass\n",
        _SLOW,
    ),
    HandWritten(
        "logins-go-on-without-an-answer",
        _APACHE,
        " and not await self.find_account(user.name):",
        " and False:",
        _SLOW,
    ),
    HandWritten(
        "blocked-without-an-answer",
        _APACHE,
        "if self.check_blocked_users(user.name) and ",
        "if ",
        _SLOW,
    ),
    HandWritten("groups-of-the-host", _ACCESS, "*([self._unix_groups] if self.host_groups else [])", "", _SLOW),
    HandWritten("unknown-is-not-refused", _ACCESS, "account in (None, MISSING)", "False", _SLOW),
    HandWritten(
        "groups-of-a-profile",
        f"{_HUB}/choosing.py",
        'self.runtime.settings["host_groups"] and unix_groups is None',
        "False",
        _SLOW,
    ),
    HandWritten("one-wait", _GROUPS, "max(0.0, since + PATIENCE - monotonic())", "PATIENCE", _SLOW),
    HandWritten("other-threads", _GROUPS, "ctypes.CDLL(None)", "ctypes.PyDLL(None)", _CACHE),
    HandWritten("suddenly-missing", _GROUPS, "if answer == self._missing and", "if False and", _CACHE),
)
