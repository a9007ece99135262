"""The mutants of Docker places: what the gate refuses, and what the hub asks for."""

from __future__ import annotations

import re

from .mutants import HandWritten, Rule

_GATE = "src/hpchub/remote/docker_gate.py"
_SPEC = "src/hpchub/places/docker/spec.py"
_TESTS = ("tests/unit/test_docker_gate.py", "tests/unit/test_swarm_gate.py")
_SWARM_TESTS = ("tests/unit/test_swarm_place.py",)
_SWARM_GATE_TESTS = ("tests/unit/test_swarm_gate.py",)
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
    HandWritten(
        "docker/gpus-of-others",
        _GATE,
        "free = [str(each) for each in range(number) if str(each) not in used]",
        "free = [str(each) for each in range(number)]",
        _TESTS,
        "share_a_gpu",
    ),
    HandWritten(
        "places/accounts-of-the-system",
        "src/hpchub/places/accounts.py",
        "if found.pw_uid < max(minimum, 1):",
        "if False:",
        _PLACE_TESTS,
        "of_the_system_has_no_sessions",
    ),
    HandWritten(
        "swarm/second-start",
        _GATE,
        '{"Condition": "none"}',
        '{"Condition": "any"}',
        _SWARM_TESTS,
        "without_any_privilege",
    ),
    HandWritten("swarm/capabilities", _GATE, '"CapabilityDrop": ["ALL"],', "", _SWARM_TESTS, "without_any_privilege"),
    HandWritten(
        "swarm/new-privileges",
        _GATE,
        '"Privileges": {"NoNewPrivileges": True},',
        "",
        _SWARM_TESTS,
        "without_any_privilege",
    ),
    HandWritten("swarm/secret-mode", _GATE, '"Mode": 0o400', '"Mode": 0o444', _SWARM_TESTS, "nowhere_else"),
    HandWritten(
        "swarm/port-of-every-node",
        _GATE,
        '"PublishMode": "host"',
        '"PublishMode": "ingress"',
        _SWARM_TESTS,
        "without_any_privilege",
    ),
    HandWritten(
        "swarm/cores",
        _GATE,
        '**({"NanoCPUs": nano_cpus} if swarm["limit_cores"] else {})',
        "",
        _SWARM_TESTS,
        "without_any_privilege",
    ),
    HandWritten(
        "swarm/checks-of-containers",
        _GATE,
        'check_container(str(content["Name"]), as_container(labels, values, policy), policy)',
        "pass",
        _SWARM_GATE_TESTS,
        "refuses_everything_else",
    ),
    HandWritten(
        "swarm/overdue",
        _GATE,
        'if time.time() - moment(state["Timestamp"]) > int(runtime) + OVERDUE:',
        "if False:",
        _SWARM_GATE_TESTS,
        "timeout",
    ),
    HandWritten(
        "swarm/other-services",
        _GATE,
        'if method == "GET" and path in ("/secrets", "/services", "/tasks"):',
        "if False:",
        _SWARM_GATE_TESTS,
        "whatever_the_hub_asks",
    ),
    HandWritten(
        "swarm/no-answer-is-unknown",
        "src/hpchub/places/swarm/connection.py",
        'if args and reason_of(error).lower() == f"{kind} {args[0]} not found":',
        "if True:",
        _SWARM_TESTS,
        "answer_that_is_lost",
    ),
    HandWritten(
        "swarm/lost-node-is-unknown",
        "src/hpchub/places/swarm/spec.py",
        'elif state == "running" and node is not None and node["Status"]["State"] == "ready":',
        'elif state == "running" and node is not None:',
        _SWARM_TESTS,
        "node_that_is_away",
    ),
    HandWritten(
        "swarm/network",
        "src/hpchub/places/swarm/spec.py",
        'return not (is_own and follows and (nodes.get("Options") or {}).get(ICC) == "false")',
        "return not (is_own and follows)",
        _SWARM_TESTS,
        "isolate_users",
    ),
)
