"""The hub's log of requests, written by a real JupyterHub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hub_app import encode_claims

if TYPE_CHECKING:
    import pytest
    from hub_app import Ask, Hub


async def test_log_of_a_failed_request_contains_neither_claims_nor_tokens(
    hub: Hub, ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("the cause")

    monkeypatch.setattr(hub.app.authenticator, "authenticate", fail)
    names = hub.app.authenticator.claims_headers
    claims = {name: encode_claims(mail="alice@example.org", header=name) for name in names}
    secrets = {"Authorization": "token abc123", "Cookie": "jupyterhub-hub-login=abc123", "X_XSRFToken": "abc123"}
    response = await ask("login", X_Hpchub_User="alice", User_Agent="a browser", **claims, **secrets)
    assert response.code == 500
    assert "the cause" in caplog.text
    assert "500 GET /hub/login" in caplog.text
    assert '"User-Agent": "a browser"' in caplog.text
    assert names[0] in caplog.text
    assert not [value for value in (*claims.values(), "abc123") if value in caplog.text]
