#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# npm's @alibaba-group/opensandbox 0.1.11, Sandbox.resume() and close(), against a server that answers everything as it should.
#
# Seen: resume() returns a new Sandbox, and its documentation speaks of a fresh, connected one. It has the connection of the one
# before, so close() of the old one, which is documented to release what that instance owns, makes every call of the new one
# fail ("The client is destroyed"). Close only the last one.
#
# Exits 0 while it is so, 1 when it is not any more. Needs Node.js 20 and npm.

set -o errexit -o nounset -o pipefail

dir=$(mktemp -d)
trap 'rm -rf "${dir}"' EXIT
cd "${dir}"
npm install --silent --no-audit --no-fund --ignore-scripts @alibaba-group/opensandbox@0.1.11
cat > main.mjs <<'JS'
import http from "node:http";
import { Sandbox } from "@alibaba-group/opensandbox";

const server = http.createServer((request, answer) => {
  if (request.url.endsWith("/resume")) {
    answer.writeHead(202, { "content-length": "0" }).end();
    return;
  }
  answer.setHeader("content-type", "application/json");
  answer.end(JSON.stringify({ endpoint: `127.0.0.1:${server.address().port}/execd` }));
});
await new Promise((go) => server.listen(0, "127.0.0.1", go));

const before = await Sandbox.connect({ sandboxId: "a", connectionConfig: { domain: `http://127.0.0.1:${server.address().port}`, apiKey: "key" } });
const after = await before.resume();
console.log(`after the resume: healthy: ${await after.isHealthy()}`);
await before.close();
const healthy = await after.isHealthy();
console.log(`after close() of the one before: healthy: ${healthy}`);
server.close();
process.exit(healthy ? 1 : 0);
JS
node main.mjs
