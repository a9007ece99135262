"""Debian's Chromium, set up to visit the lab."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import Browser, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium(lab: Lab, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Browser]:
    """Start a browser that resolves the service's names to the lab's hosts, without any DNS entry.

    Args:
        lab: The lab.
        arguments: Further arguments of the browser.
        environment: Further variables of its environment.
    """
    hub, idp = lab.addresses[lab.host("hub")], lab.addresses["idp"]
    rules = f"--host-resolver-rules=MAP hub.localhost {hub}, MAP *.hub.localhost {hub}, MAP auth.localhost {idp}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, rules, *arguments], env={**os.environ, **(environment or {})}
        )
        yield browser
        browser.close()
