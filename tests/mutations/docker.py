"""The mutants of Docker places: what the gate refuses, and what the hub asks for."""

from __future__ import annotations

import re

from .mutants import HandWritten, Rule

_GATE = "src/hpchub/remote/docker_gate.py"
_SPEC = "src/hpchub/places/docker/spec.py"
_TESTS = ("tests/unit/test_docker_gate.py",)
_PLACE_TESTS = ("tests/unit/test_docker_place.py",)


def _problem(text: str, match: re.Match[str]) -> str:
    """Return the message of a refusal, which names the mutant."""
    found = re.search(r'f?"([^"]*)"\)$', match[0])
    return re.sub(r"[^a-z0-9]+", "-", (found[1] if found else match[0]).lower()).strip("-")


def _nothing(match: re.Match[str]) -> str:
    """Return a statement that does nothing, with the same indentation."""
    return match[0][: len(match[0]) - len(match[0].lstrip())] + "pass"


DOCKER_RULES = (Rule("docker-gate", (_GATE,), r"^ +require\(.*\)$", _TESTS, replace=_nothing, name=_problem),)

DOCKER = (
    HandWritten(
        "docker/unchecked-keys",
        _GATE,
        "found = {key: value for key, value in content.items() if key in KEYS}",
        "found = dict(content)",
        _TESTS,
        "checked_keys_only",
    ),
    HandWritten("docker/old-versions", _GATE, "4[1-9]|[5-9][0-9]", "[0-9]{1,3}", _TESTS, "other_request"),
    HandWritten(
        "docker/overdue",
        _GATE,
        'if time.time() - each["Created"] > int(runtime) + OVERDUE:',
        "if False:",
        _TESTS,
        "timeout",
    ),
    HandWritten(
        "docker/system-groups",
        "src/hpchub/places/accounts.py",
        "return gid >= max(minimum, 1) or gid == USERS_GROUP",
        "return True",
        _PLACE_TESTS,
        "groups_of_the_system",
    ),
    HandWritten(
        "kubernetes/home-without-a-volume",
        "src/hpchub/places/kubernetes/pods.py",
        "else limited",
        'else {"emptyDir": {}}',
        ("tests/unit/test_kubernetes_pods.py",),
        "",
    ),
    HandWritten("docker/capabilities", _SPEC, '"cap_drop": ["ALL"],', "", _PLACE_TESTS, "without_any_privilege"),
    HandWritten(
        "docker/new-privileges",
        _SPEC,
        '"security_opt": ["no-new-privileges:true"],',
        "",
        _PLACE_TESTS,
        "without_any_privilege",
    ),
    HandWritten("docker/read-only", _SPEC, '"read_only": place.read_only,', "", _PLACE_TESTS, "without_any_privilege"),
    HandWritten("docker/processes", _SPEC, '"pids_limit": place.pids,', "", _PLACE_TESTS, "without_any_privilege"),
    HandWritten("docker/swap", _SPEC, '"memswap_limit": memory,', "", _PLACE_TESTS, "without_any_privilege"),
    HandWritten(
        "docker/own-containers",
        "src/hpchub/places/docker/connection.py",
        "if job_id != job_name(session) or not spec.belongs_to(record, user=user, session=session):",
        "if False:",
        _PLACE_TESTS,
        "somebody_else",
    ),
    HandWritten(
        "docker/no-answer-is-unknown",
        "src/hpchub/places/docker/connection.py",
        'if "no such container" in reason_of(error).lower():',
        "if True:",
        _PLACE_TESTS,
        "answer_that_is_lost",
    ),
    HandWritten(
        "docker/network",
        "src/hpchub/places/docker/connection.py",
        '.get(ICC) != "false"',
        ".get(ICC) == 1",
        _PLACE_TESTS,
        "isolate_users",
    ),
)
