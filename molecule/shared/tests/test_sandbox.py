"""The sandboxes of the services on the hub host, as systemd applies them to the running units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

# What every service of ours forbids itself.
COMMON = {
    "DevicePolicy": "closed",
    "KeyringMode": "private",
    "LockPersonality": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProcSubset": "pid",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
}
# What each service can do, and the others cannot.
UNITS = {
    "jupyterhub": {
        "AmbientCapabilities": "",
        "CapabilityBoundingSet": "",
        "Group": "jupyterhub",
        "MemoryDenyWriteExecute": "yes",
        "ReadWritePaths": "/var/lib/hpchub /run/hpchub-hub",
        "RemoveIPC": "yes",
        "RuntimeDirectoryMode": "0700",
        "UMask": "0077",
        "User": "jupyterhub",
    },
    "configurable-http-proxy": {
        "AmbientCapabilities": "",
        "CapabilityBoundingSet": "",
        "ExecPaths": "/usr /opt/hpchub/proxy",
        "Group": "hpchub-proxy",
        "NoExecPaths": "/",
        "PrivateUsers": "yes",
        "ReadWritePaths": "/run/hpchub-proxy/public /run/hpchub-proxy/api",
        "RemoveIPC": "yes",
        "SocketBindDeny": "any",
        "UMask": "0117",
        "User": "hpchub-proxy",
    },
    "apache2": {
        "AmbientCapabilities": "",
        "CapabilityBoundingSet": ("cap_chown cap_dac_read_search cap_kill cap_setgid cap_setuid cap_net_bind_service"),
        "MemoryDenyWriteExecute": "yes",
        "ReadWritePaths": "/var/log/apache2 /var/cache/apache2 /run",
        "UMask": "0027",
    },
}
# From this version on, systemd prints every property above.
FIRST_COMPLETE_VERSION = 257
# System calls that a service must not make, by the part of the filter that forbids them.
FORBIDDEN_CALLS = {
    "jupyterhub": {"mount", "reboot", "bpf", "ptrace", "setuid", "chroot", "setrlimit", "sched_setscheduler"},
    "configurable-http-proxy": {
        "mount",
        "reboot",
        "bpf",
        "ptrace",
        "setuid",
        "chroot",
        "setrlimit",
        "sched_setscheduler",
    },
    "apache2": {"mount", "reboot", "bpf", "ptrace"},
}


def properties(hub: Host, unit: str) -> dict[str, str]:
    """Return the properties of a unit as systemd has them."""
    # Without --all, systemctl hides empty properties: those that nothing restricts.
    lines = hub.check_output("systemctl show --all %s", unit).splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize("unit", UNITS)
def test_sandbox_has_each_restriction(hub: Host, unit: str) -> None:
    expected = {**COMMON, **UNITS[unit]}
    found = properties(hub, unit)
    # Older versions of systemd print address families in another order, and lack some of the properties.
    found["RestrictAddressFamilies"] = " ".join(sorted(found["RestrictAddressFamilies"].split()))
    assert {name: found.get(name, value) for name, value in expected.items()} == expected
    if int(hub.check_output("systemctl --version").split()[1]) >= FIRST_COMPLETE_VERSION:
        assert expected.keys() <= found.keys()


@pytest.mark.parametrize("unit", UNITS)
def test_running_unit_is_the_unit_on_disk(hub: Host, unit: str) -> None:
    assert properties(hub, unit)["NeedDaemonReload"] == "no"


@pytest.mark.parametrize("unit", FORBIDDEN_CALLS)
def test_sandbox_forbids_system_calls_that_the_service_does_not_need(hub: Host, unit: str) -> None:
    allowed = properties(hub, unit)["SystemCallFilter"].split()
    assert "read" in allowed
    assert not FORBIDDEN_CALLS[unit] & set(allowed)
