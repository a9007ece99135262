"""What remains of a user after JupyterHub deletes or renames it. Another person may get the same name later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jupyterhub import roles

from hpchub.hub.saved_settings import SavedSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_app import Hub


def _token(hub: Hub) -> str:
    admin = hub.user("boss")
    admin.orm_user.admin = True
    hub.app.db.commit()
    roles.assign_default_roles(hub.app.db, entity=admin.orm_user)
    return str(admin.new_api_token())


def _names(hub: Hub, user: str) -> list[str]:
    return [each.name for each in SavedSettings(hub.app.db, user).all()]


@pytest.fixture
def token(hub: Hub) -> str:
    """A token of an administrator of the hub. Three users have saved settings."""
    for name in ("alice", "bob", "carl"):
        hub.user(name)
        SavedSettings(hub.app.db, name).save("secret plan", {"profile": "small"})
    return _token(hub)


async def test_deleted_user_leaves_no_settings(hub: Hub, ask: Callable[..., Any], token: str) -> None:
    response = await ask("api/users/alice", "DELETE", None, Authorization=f"token {token}")
    assert response.code == 204
    assert [_names(hub, name) for name in ("alice", "bob")] == [[], ["secret plan"]]


async def test_renamed_user_leaves_no_settings(hub: Hub, ask: Callable[..., Any], token: str) -> None:
    body = json.dumps({"name": "dora"}).encode()
    SavedSettings(hub.app.db, "dora").save("plan of an earlier dora", {"profile": "small"})
    response = await ask("api/users/alice", "PATCH", body, Authorization=f"token {token}")
    assert response.code == 200
    hub.app.db.rollback()
    assert [_names(hub, name) for name in ("alice", "dora", "bob")] == [[], [], ["secret plan"]]
