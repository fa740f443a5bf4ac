// SPDX-License-Identifier: Apache-2.0

// What `make demo` ends with: a pause and a resume, by OpenSandbox's SDK.

import { execFileSync } from "node:child_process";
import { ConnectionConfig, Sandbox } from "@alibaba-group/opensandbox";

const connectionConfig = new ConnectionConfig({ domain: process.env.LIFECYCLE_URL, apiKey: process.env.LIFECYCLE_API_KEY });
const show = () => console.log(execFileSync("kubectl", ["get", "sandboxes", "--namespace", process.env.LIFECYCLE_NAMESPACE ?? "demo"]).toString());
const proved = (what) => console.log(`✓ ${what}`);

let sandbox = await Sandbox.create({
  connectionConfig,
  image: "docker.io/library/busybox:local",
  resource: { cpu: "100m", memory: "64Mi" },
  timeoutSeconds: 3600,
});
const said = await sandbox.commands.run("uname -sr");
proved(`sandbox ${sandbox.id} runs a command: ${said.logs.stdout[0].text}`);
await sandbox.files.writeFiles([{ path: "/root/note.txt", data: "I was here" }]);

await sandbox.pause();
const deadline = Date.now() + 120_000;
for (let state = ""; state !== "Paused"; state = (await sandbox.getInfo()).status.state) {
  if (state === "Failed" || Date.now() > deadline) throw new Error(`the sandbox is ${state}, want Paused`);
  await new Promise((go) => setTimeout(go, 200));
}
proved("it is paused");
show();

sandbox = await sandbox.resume();
const note = await sandbox.files.readFile("/root/note.txt");
if (note !== "I was here") throw new Error(`the file has ${JSON.stringify(note)}`);
proved(`it is resumed, and its file says: ${note}`);
show();

await sandbox.kill();
proved("it is deleted");
await sandbox.close();
