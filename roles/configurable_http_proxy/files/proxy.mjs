// configurable-http-proxy, which asks of a notebook server to prove whose it is, and loses no answer of the hub's.
//
// The proxy's own way is to demand a certificate for the name in the browser's address, which is the same for every
// session: any user's server would do. Here the certificate must be for the user whose route it is, as the hub said when
// it made the route. A port that another user's process has taken over gets a closed connection, and no request.
//
// In JavaScript, because it is in the proxy's own process that a TLS connection gets its name.

import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";

import { ConfigurableProxy } from "configurable-http-proxy";
import { defaultLogger } from "configurable-http-proxy/lib/log.js";

// Below which a user's server has its name; hpchub/authority.py says the same.
const DOMAIN = "user.hpchub.internal";

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

// Without a token everybody who can reach its socket could set routes.
if (!process.env.CONFIGPROXY_AUTH_TOKEN) {
  console.error("no CONFIGPROXY_AUTH_TOKEN in the environment");
  process.exit(1);
}

const log = defaultLogger({ level: options["log-level"] });

class Proxy extends ConfigurableProxy {
  constructor(proxyOptions, tls) {
    super(proxyOptions);
    this.tls = tls;
    // The proxy's own way is a connection for each request to a unix socket. Node.js then loses one answer in six to a
    // request with a body: it looks whether it can still write, when the hub has answered and closed already.
    this.socketAgent = new http.Agent({ keepAlive: true });
    // An answer that breaks off breaks off for the browser too, which would wait for the rest of it for ever.
    this.proxy.on("proxyRes", (answer, request, response) => {
      answer.once("close", () => answer.complete || response.destroy());
    });
    this.agents = new Map(); // a user's, with the connections to his or her servers that are kept
  }

  // The user of a route goes along in the target's user part, which is of no other use.
  async targetForReq(req) {
    const match = await super.targetForReq(req);
    if (match?.target.startsWith("https:")) {
      const route = await this._routes.get(match.prefix);
      const target = new URL(match.target);
      target.username = route?.user ?? "";
      match.target = target.href;
    }
    return match;
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
    if (!user) throw new Error("a route to a notebook server without its user");
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
    // The web server alone knows the client: what this process would add about its own side of a unix socket is wrong.
    xfwd: false,
  },
  { ca: read("servers.pem"), cert: read("proxy.pem"), key: read("proxy.pem") },
);

for (const name of ["socket", "api-socket"]) {
  fs.rmSync(options[name], { force: true }); // left by a process that was killed
}
// So many may wait while this process is busy; a unix socket turns away whoever comes after them.
const backlog = 4096;
proxy.proxyServer.listen({ path: options.socket, backlog });
proxy.apiServer.listen({ path: options["api-socket"], backlog });
log.info("listening on %s, and for the hub on %s", options.socket, options["api-socket"]);

process.on("SIGTERM", () => process.exit(0));
process.on("uncaughtException", (error) => log.error("%s", error.stack ?? error));
