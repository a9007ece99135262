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


SIGN_ON = (
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
