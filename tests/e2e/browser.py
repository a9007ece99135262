"""Debian's Chromium, set up to visit the lab."""

from __future__ import annotations

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


def arguments(lab: Lab) -> list[str]:
    """Return arguments of a browser that map the names of the service to the lab's hosts, without DNS."""
    hub, idp = lab.addresses[lab.host("hub")], lab.addresses["idp"]
    rules = f"MAP hub.localhost {hub}, MAP *.hub.localhost {hub}, MAP auth.localhost {idp}"
    return [*ARGUMENTS, f"--host-resolver-rules={rules}"]


@contextmanager
def chromium(lab: Lab) -> Iterator[Browser]:
    """Start Playwright and a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments(lab))
        yield browser
        browser.close()
