"""The mutants of sessions on a host without a scheduler: who may start and end a unit, and what ends a session."""

from __future__ import annotations

from .mutants import HandWritten

_TESTS = ("tests/unit/test_host_units.py",)


def _units(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, "src/hpchub/remote/host_units.py", old, new, _TESTS, keyword)


def _client(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, "src/hpchub/remote/host_client.py", old, new, _TESTS, keyword)


HOST_UNITS = (
    # The rights of each user.
    _units("session-of-another-user", 'if job["uid"] != account.pw_uid:', "if False:", "cannot_cancel"),
    _units("second-account", "if account.pw_uid != caller:", "if False:", "second_account"),
    _units("query-of-a-user", 'if caller != 0 and name != config["gate_account"]:', "if False:", "only_the_gate"),
    _units("user-checked-again", 'if account.pw_uid != job["uid"]:', "if False:", "another_uid"),
    _units("tag-of-another-user", "tag[1] != account.pw_name or ", "", "request_that_is_refused"),
    _units("name-of-another-session", ' or found["name"] != f"hpchub-{tag[2]}"', "", "request_that_is_refused"),
    _units("too-many-sessions", 'sum(job["uid"] == account.pw_uid for job in alive) >= JOBS_OF_USER', "False", "fill"),
    _units("turns-of-users", 'ranked.append((numbers.get(job["uid"], 0),', "ranked.append((0,", "take_turns"),
    _units("queued-unit", 'fields.get("Job", "") not in ("", "0")', "False", "only_queued"),
    # What a request may contain.
    _units(
        "unknown-directive", "if name not in NEEDED and name not in WEIGHTS:", "if False:", "request_that_is_refused"
    ),
    _units("directive-twice", " or directive[1] in found:", ":", "directive_twice"),
    _units(
        "invalid-directive",
        "if directive is None or directive[1] in found:",
        "if directive is None:\n                continue\n            if directive[1] in found:",
        "request_that_is_refused",
    ),
    _units("above-the-limit", "if amounts[field] > limits[limit]:", "if False:", "request_that_is_refused"),
    _units("weight-above-the-default", " or not least <= int(found[field]) <= most:", ":", "request_that_is_refused"),
    _units("another-queue", 'if found["queue"] != config["limits"]["queue"]:', "if False:", "request_that_is_refused"),
    _units(
        "further-field",
        'if set(request) != {"action"} | ({FIELDS[action]} if action in FIELDS else set()):',
        "if False:",
        "not_valid",
    ),
    _units("id-with-a-meaning", "isinstance(one, str) and JOB_ID.fullmatch(one)", "isinstance(one, str)", "not_valid"),
    _units("silent-caller", "with time_limit(REQUEST_TIMEOUT):", "if True:", "cut_off"),
    # What the unit may do.
    _units("new-privileges", '        "NoNewPrivileges": "yes",\n', "", "its_limits"),
    _units("memory", '        "MemoryMax": f"{job[\'memory\']}M",\n', "", "its_limits"),
    _units("swap", '        "MemorySwapMax": "0",\n', "", "its_limits"),
    _units("cores", '        "CPUQuota": f"{job[\'cores\'] * 100}%",\n', "", "its_limits"),
    _units("tasks", '        "TasksMax": str(config["tasks"]),\n', "", "its_limits"),
    _units("group-of-processes", '        "KillMode": "control-group",\n', "", "its_limits"),
    _units("kill", '        "SendSIGKILL": "yes",\n', "", "its_limits"),
    _units("mask", '        "UMask": "0077",\n', "", "its_limits"),
    _units("owner-of-the-script", "        os.chown(path, account.pw_uid, account.pw_gid)\n", "", "its_limits"),
    _units(
        "mode-of-the-script", "os.O_EXCL | os.O_NOFOLLOW, 0o400)", "os.O_EXCL | os.O_NOFOLLOW, 0o444)", "others_read"
    ),
    _units(
        "mode-of-the-list", "os.O_TRUNC | os.O_NOFOLLOW, 0o600)", "os.O_TRUNC | os.O_NOFOLLOW, 0o644)", "others_read"
    ),
    # What ends a session, and what does not.
    _units(
        "failure-of-systemd",
        "    if done.returncode:\n        raise Unavailable",
        "    if False:\n        raise Unavailable",
        "unknown_answer",
    ),
    _units("unknown-start", 'if job["id"] not in units():', "if True:", "started_twice"),
    _units("list-before-the-start", "    save(state)\n    properties = {", "    properties = {", "before_a_unit"),
    _units("lock", "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "locked"),
    _units("shutdown", '        "host-restarted": stopping,\n', "", "shuts_down"),
    _units(
        "ids-after-a-loss",
        'str(max(state["last"] + 1, int(time.time())))',
        'str(state["last"] + 1)',
        "never_used_twice",
    ),
    _client("mark", "if not MARK.fullmatch(mark):", "if False:", "mark_of_a_query"),
    _client("id-of-a-script", 'if action == "run" and JOB_ID.fullmatch(rest[0]):', 'if action == "run":', "only_ids"),
)
