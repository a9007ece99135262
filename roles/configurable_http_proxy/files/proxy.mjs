// A subclass of configurable-http-proxy that authenticates notebook servers, does not lose or mix up responses, and ends
// what a browser has open when its user signs off.
//
// By default, the proxy expects a certificate for the host name in the browser's address. That name is the same for
// every session, so any user's server would be accepted. Here, the certificate must belong to the user of the route,
// which the hub sets when it creates the route, as a label for host names. If a process of another user has taken over the port, the proxy closes
// the connection before it sends a request.
//
// This program is in JavaScript, because the expected name of a TLS connection can only be set in the proxy's process.

import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { ConfigurableProxy } from "configurable-http-proxy";
import { defaultLogger } from "configurable-http-proxy/lib/log.js";

// Increase this number when a change makes the hub and an older proxy misunderstand each other. The package hpchub has the
// same constant. While the two differ, the hub starts no session.
const PROTOCOL = 1;

// Another version may be installed while this process runs, so read the version at the start.
const { version } = createRequire(import.meta.url)("configurable-http-proxy/package.json");

// The domain of the names in the servers' certificates. The package hpchub, which issues them, has the same constant.
const DOMAIN = "user.hpchub.internal";

// A token that a program uses. The tokens of browsers are shorter, and Apache passes them on only with a sign-on. The role
// reverse_proxy has the same pattern.
const PROGRAM = /^(token|bearer) [!-~]{32,}$/i;

// The cookie that identifies a browser's login at the hub.
const LOGIN = /(?:^|;)\s*jupyterhub-session-id=([^;]+)/;

// The cookie with the language that the reader has chosen.
const LANGUAGE = /(?:^|;) *hpchub-language=([a-z]{2,3})(?![^;])/;

// A language in the header Accept-Language, and how much the reader wants it.
const ACCEPTED = /^\s*([a-z]{2,3})(?![a-z])[^;]*(?:;\s*q=([0-9.]+))?/i;

// How long the proxy refuses a login that has ended, in milliseconds: as long as the hub's cookies are valid.
const REMEMBERED = 24 * 3600 * 1000;

const { values: options } = parseArgs({
  options: {
    socket: { type: "string" },
    "api-socket": { type: "string" },
    "default-target": { type: "string" },
    "error-path": { type: "string" },
    "host-routing": { type: "boolean", default: false },
    "tls-directory": { type: "string" },
    "log-level": { type: "string", default: "info" },
  },
});

// Without a token, everybody who can reach the API socket could set routes.
if (!process.env.CONFIGPROXY_AUTH_TOKEN) {
  console.error("CONFIGPROXY_AUTH_TOKEN is not set; set it in the EnvironmentFile of this unit");
  process.exit(1);
}

const log = defaultLogger({ level: options["log-level"] });

// An answer other than 503, which the proxy gives itself.
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

class Proxy extends ConfigurableProxy {
  constructor(proxyOptions, tls) {
    super(proxyOptions);
    this.tls = tls;
    this.ended = new Map(); // logins that have ended, each with the time
    this.websockets = new Map(); // the open websockets of browsers: each socket with its route's user and its login
    this.on("proxyRequestWs", (request, socket) => {
      if (PROGRAM.test(request.headers.authorization)) return;
      this.websockets.set(socket, { user: request.user, login: request.login });
      socket.once("close", () => this.websockets.delete(socket));
    });
    this.proxy.on("proxyReqWs", (outgoing, request, socket) => {
      outgoing.prependOnceListener("upgrade", () => (socket.upgraded = true));
      // The proxy closes the connection after such an answer, so the web server must not use it again.
      outgoing.prependOnceListener("response", (answer) => {
        delete answer.headers["keep-alive"];
        answer.headers.connection = "close";
      });
    });
    this.apiHandlers.push([/^\/api\/logins$/, { delete: (request, response) => this.endLogin(request, response) }]);
    this.apiHandlers.push([/^\/api\/version$/, { get: reportVersion }]);
    // By default, the proxy opens a new connection to a unix socket for each request. Node.js then loses one response
    // in six to requests with a body, because it still tries to write after the hub has responded and closed the
    // connection.
    this.socketAgent = new http.Agent({ keepAlive: true });
    // If a response is cut off, close the connection to the browser too. Otherwise the browser would wait forever.
    this.proxy.on("proxyRes", (answer, request, response) => {
      answer.once("close", () => answer.complete || response.destroy());
    });
    this.agents = new Map(); // by user; each agent keeps the connections to the servers of its user
  }

  // Refuse requests of a login that has ended. Pass the route's user on in the user name of the target URL, which the
  // proxy does not use otherwise.
  async targetForReq(req) {
    const match = await super.targetForReq(req);
    const route = match && (await this._routes.get(match.prefix));
    req.user = route?.user;
    if (req.user) {
      req.login = LOGIN.exec(req.headers.cookie)?.[1];
      if (this.ended.has(req.login)) throw new Refusal(401, "the user has signed off");
      // A notebook server must not use cookies in place of a token.
      if (req.headers.authorization) delete req.headers.cookie;
    }
    if (match?.target.startsWith("https:")) {
      const target = new URL(match.target);
      target.username = req.user ?? "";
      match.target = target.href;
    }
    return match;
  }

  handleProxyWeb(req, res) {
    // A notebook server would accept a token in the address, and skip the XSRF check, if it took this for a websocket.
    if (/websocket/i.test(req.headers["sec-fetch-mode"])) delete req.headers["sec-fetch-mode"];
    return super.handleProxyWeb(req, res);
  }

  handleProxyWs(req, socket, head) {
    socket.on("error", () => socket.destroy());
    const { headers } = req;
    const body = headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) !== 0;
    // Nobody reads the body of a refused upgrade. The server would take the next request for this body.
    if (req.method !== "GET" || body || headers.upgrade?.toLowerCase() !== "websocket") {
      return this.handleProxyError(500, "ws", req, socket, new Refusal(400, "this is not a websocket"));
    }
    moveToken(req);
    return super.handleProxyWs(req, socket, head);
  }

  handleProxyError(code, kind, req, res, error) {
    const status = error?.status ?? (error instanceof URIError ? 400 : code);
    // The base class only logs the address. JupyterHub's API accepts a token in such a path.
    const shown = { method: req.method, url: req.url.replace(/(\/authorizations\/).*/, "$1[secret]") };
    if (kind !== "ws") {
      this.errorPath = pagesFor(req.headers); // the base class reads it before it returns
      return super.handleProxyError(status, kind, shown, res, error?.status ? undefined : error);
    }
    super.handleProxyError(status, kind, shown, null, error?.message); // only log it
    // After an upgrade, the client would take the answer for a message.
    if (res.upgraded || res.writableEnded) return res.destroySoon();
    const lines = [`HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`, "Content-Length: 0", "Connection: close"];
    res.write([...lines, "", ""].join("\r\n"));
    res.destroySoon();
  }

  // The request DELETE /api/logins of the hub, with {"user": NAME, "login": ID}, when a user has signed off.
  endLogin(request, response) {
    let text = "";
    request.on("data", (chunk) => (text += chunk));
    request.on("end", () => {
      if (request.headers.authorization !== `token ${this.authToken}`) return response.writeHead(403).end();
      const { user, login } = JSON.parse(text);
      const now = Date.now();
      for (const [known, since] of this.ended) if (since + REMEMBERED < now) this.ended.delete(known);
      if (login) this.ended.set(login, now);
      for (const [socket, owner] of this.websockets) {
        if (login && owner.login ? owner.login === login : owner.user === user) socket.destroy();
      }
      response.writeHead(204).end();
    });
  }

  proxyOptsForTarget(target) {
    const found = super.proxyOptsForTarget(target);
    if (target.socketPath) {
      found.agent = this.socketAgent;
    } else if (target.protocol === "https:") {
      found.agent = this.agentFor(decodeURIComponent(target.username));
      target.username = "";
    }
    return found;
  }

  agentFor(user) {
    if (!user) throw new Error("the route to a notebook server does not name its user");
    let agent = this.agents.get(user);
    if (!agent) {
      agent = new https.Agent({ keepAlive: true, ...this.tls, servername: `${user}.${DOMAIN}` });
      this.agents.set(user, agent);
    }
    return agent;
  }

  async removeRoute(path) {
    const route = await this._routes.get(path);
    this.agents.delete(route?.user);
    return super.removeRoute(path);
  }
}

// Return the directory of the error pages in the language that the reader wants: the one that the reader has chosen on the
// pages of the hub, else the first one of the browser that there is, else the site's own.
function pagesFor({ cookie = "", "accept-language": accepted = "" }) {
  const directory = options["error-path"];
  const wishes = accepted.slice(0, 1000).split(",").map((each) => ACCEPTED.exec(each)).filter(Boolean);
  const codes = wishes.sort((one, other) => (other[2] ?? 1) - (one[2] ?? 1)).map((each) => each[1].toLowerCase());
  const found = [LANGUAGE.exec(cookie)?.[1], ...codes].find((each) => each && fs.existsSync(`${directory}/${each}`));
  return found ? `${directory}/${found}` : directory;
}

// The request GET /api/version of the hub. It needs no token, because only the hub's group can open the API's socket.
function reportVersion(request, response) {
  const report = { protocol: PROTOCOL, "configurable-http-proxy": version, stale: isStale() };
  response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(report));
}

// Return whether the link that names this program leads to another version by now.
function isStale() {
  try {
    return fs.realpathSync(process.argv[1]) !== fileURLToPath(import.meta.url);
  } catch {
    return true;
  }
}

// Move a token from the address of a websocket into a header, so that no log contains it. Programs and editors put it
// there, because browsers cannot set headers for websockets. An address with several tokens has none.
function moveToken(request) {
  const [path, ...queries] = request.url.split("?");
  const parameters = new URLSearchParams(queries.join("?"));
  const tokens = parameters.getAll("token");
  if (tokens.length === 0) return;
  parameters.delete("token");
  request.url = parameters.size ? `${path}?${parameters}` : path;
  if (tokens.length === 1 && /^[!-~]+$/.test(tokens[0])) request.headers.authorization ??= `token ${tokens[0]}`;
}

const read = (name) => fs.readFileSync(`${options["tls-directory"]}/${name}`);

const proxy = new Proxy(
  {
    log,
    authToken: process.env.CONFIGPROXY_AUTH_TOKEN,
    defaultTarget: options["default-target"],
    errorPath: options["error-path"],
    hostRouting: options["host-routing"],
    includePrefix: true,
    prependPath: true,
    // Apache closes idle connections after 30 seconds. It would lose a request if the proxy closed them first.
    keepAliveTimeout: 60_000,
    // Only the web server knows the client's address. This process would add wrong headers, because it sees a unix
    // socket.
    xfwd: false,
  },
  { ca: read("servers.pem"), cert: read("proxy.pem"), key: read("proxy.pem") },
);

for (const name of ["socket", "api-socket"]) {
  fs.rmSync(options[name], { force: true }); // a killed process leaves its socket behind
}
// The number of connections that can wait while this process is busy. A unix socket refuses further connections.
const backlog = 4096;
proxy.proxyServer.listen({ path: options.socket, backlog });
proxy.apiServer.listen({ path: options["api-socket"], backlog });
log.info("listening on %s, and for the hub's API requests on %s", options.socket, options["api-socket"]);

process.on("SIGTERM", () => process.exit(0));
process.on("uncaughtException", (error) => log.error("%s", error.stack ?? error));
