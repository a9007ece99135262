// A subclass of configurable-http-proxy that authenticates notebook servers, and does not lose responses of the hub.
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
import { parseArgs } from "node:util";

import { ConfigurableProxy } from "configurable-http-proxy";
import { defaultLogger } from "configurable-http-proxy/lib/log.js";

// The domain of the names in the servers' certificates. The package hpchub, which issues them, has the same constant.
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

// Without a token, everybody who can reach the API socket could set routes.
if (!process.env.CONFIGPROXY_AUTH_TOKEN) {
  console.error("CONFIGPROXY_AUTH_TOKEN is not set; set it in the EnvironmentFile of this unit");
  process.exit(1);
}

const log = defaultLogger({ level: options["log-level"] });

class Proxy extends ConfigurableProxy {
  constructor(proxyOptions, tls) {
    super(proxyOptions);
    this.tls = tls;
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

  // Pass the route's user on in the user name of the target URL, which the proxy does not use otherwise.
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
