"""A site's own files in conf.d add to the configuration of hpchub, and cannot remove parts of it by mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from traitlets.config.loader import PyFileConfigLoader

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATE = Path(__file__).parents[2] / "roles/jupyterhub/templates/jupyterhub_config.py.j2"
OWN = """
c.JupyterHub.services = [{"name": "metrics", "api_token": "t"}]
c.JupyterHub.load_roles = [{"name": "metrics", "services": ["metrics"], "scopes": ["read:metrics"]}]
c.JupyterHub.services.append({"name": "canary"})
c.JupyterHub.tornado_settings = {"cookie_options": {"secure": True}, "log_function": print}
c.JupyterHub.template_paths = ["/etc/hpchub/templates"]
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that loads a configuration as JupyterHub does, with files in conf.d."""
    text = TEMPLATE.read_text().replace("{{ ansible_managed | comment }}", "")
    text = text.replace("{{ __jupyterhub_config_directory }}", str(tmp_path))
    # The settings of a real host do not matter here.
    text = re.sub(r"^configure\(.*$", OWN, text, flags=re.MULTILINE)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "jupyterhub_config.py").write_text(text)

    def loaded(*files: str) -> Any:
        for number, file in enumerate(files):
            (tmp_path / f"conf.d/{number}0-site.py").write_text(file)
        return PyFileConfigLoader("jupyterhub_config.py", path=str(tmp_path)).load_config().JupyterHub

    return loaded


def test_site_adds_its_entries_and_changes_other_settings(load: Callable[..., Any]) -> None:
    found = load(
        'c.JupyterHub.services.append({"name": "mine"})\n'
        'c.JupyterHub.load_roles.extend([{"name": "mine"}])\n'
        'c.JupyterHub.tornado_settings.update({"headers": {}})\n'
        'c.JupyterHub.template_paths.insert(0, "/etc/site")\n',
        'c.JupyterHub.services.append({"name": "more"})\nc.JupyterHub.active_server_limit = 7\n',
    )
    assert [each["name"] for each in found.services] == ["metrics", "canary", "mine", "more"]
    assert [each["name"] for each in found.load_roles] == ["metrics", "mine"]
    assert set(found.tornado_settings) == {"cookie_options", "log_function", "headers"}
    assert found.template_paths == ["/etc/site", "/etc/hpchub/templates"]
    assert found.active_server_limit == 7


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("c.JupyterHub.services = [{'name': 'mine'}]", "c.JupyterHub.services lacks entries that hpchub needs: canary"),
        ("c.JupyterHub.services = []", "needs: canary, metrics; do not assign a new value, but add your entries with"),
        ("c.JupyterHub.load_roles = [{'name': 'mine'}]", "c.JupyterHub.load_roles lacks entries that hpchub needs: me"),
        ("c.JupyterHub.load_roles = None", "c.JupyterHub.load_roles lacks entries that hpchub needs: metrics; do not"),
        (
            "c.JupyterHub.tornado_settings = {'headers': {}}",
            "add your entries with c.JupyterHub.tornado_settings.upd",
        ),
        ("c.JupyterHub.template_paths = ['/etc/site']", "c.JupyterHub.template_paths lacks entries that hpchub needs"),
    ],
)
def test_site_that_replaces_entries_of_hpchub_is_told_so(
    load: Callable[..., Any], tmp_path: Path, file: str, message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        load("c.JupyterHub.active_server_limit = 7\n", file)
    assert str(raised.value.code).startswith(f"{tmp_path}/conf.d/10-site.py: c.JupyterHub.")
    assert message in str(raised.value.code)


def test_file_that_contains_all_entries_itself_is_accepted(load: Callable[..., Any]) -> None:
    file = "c.JupyterHub.services = [{'name': 'mine'}, {'name': 'canary'}, {'name': 'metrics'}]"
    assert len(load(file).services) == 3
