"""What a page of a user's own host name may read on the hub's host, with a real Apache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apache_server import needs_apache
from web_site import HOST, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ALICE = f"https://alice.{HOST}:8443"
TAB = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Origin": ALICE}
STATE = "/hub/api/hpchub/sessions/alice"

pytestmark = needs_apache()


@pytest.fixture(scope="module", params=[True, False], ids=["own-hosts", "one-host"])
def site(request: pytest.FixtureRequest) -> Iterator[tuple[Site, bool]]:
    with Site() as site:
        site.start({"reverse_proxy_sso_provider": "hub", "reverse_proxy_user_subdomains": request.param})
        yield site, request.param


def test_tab_reads_the_state_of_a_session_from_its_own_host_and_nothing_else(site: tuple[Site, bool]) -> None:
    web, has_own_hosts = site
    browser = web.browser()
    permitted = 200 if has_own_hosts else 403
    assert browser.ask(STATE, TAB).status == permitted
    assert browser.ask(f"{STATE}/genome", TAB).status == permitted
    refused = [
        browser.ask(path, TAB)
        for path in (
            "/hub/api/hpchub/sessions/alice/genome/x",
            "/hub/api/hpchub/sessions/",
            "/hub/api/hpchub/sessionsx/alice",
            "/hub/api/users/alice",
            "/hub/home",
        )
    ]
    refused += [
        browser.ask(STATE, {**TAB, "Origin": origin})
        for origin in (
            "null",
            "https://evil.example",
            f"https://alice.{HOST}.evil.example",
            f"https://evil.example/alice.{HOST}",
            f"http://alice.{HOST}:8443",
            f"https://a.b.{HOST}",
        )
    ]
    refused.append(browser.ask(STATE, {**TAB, "Content-Type": "application/json"}, method="POST", body="{}"))
    refused.append(browser.ask(STATE, {name: value for name, value in TAB.items() if name != "Origin"}))
    assert [answer.status for answer in refused] == [403] * len(refused)
    browser.close()
