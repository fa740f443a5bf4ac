// SPDX-License-Identifier: Apache-2.0

// What the SDK's users catch: its own exceptions, with our codes and causes.

import { Sandbox, SandboxException, SandboxManager, SandboxReadyTimeoutException } from "@alibaba-group/opensandbox";
import { check, connection, expect, image, refused, run, small, step, told } from "./steps.mjs";

await run(async () => {
  const connectionConfig = connection();
  const manager = SandboxManager.create({ connectionConfig });

  await step("an id that is nobody's", async () => {
    for (const id of ["no-such-sandbox", "00000000-0000-4000-8000-000000000000"]) {
      await refused("get", () => manager.getSandboxInfo(id), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("pause", () => manager.pauseSandbox(id), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("resume", () => manager.resumeSandbox(id), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("kill", () => manager.killSandbox(id), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("renew", () => manager.renewSandbox(id, 600), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("snapshot", () => manager.createSnapshot(id), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
      await refused("connect", () => Sandbox.connect({ connectionConfig: connection(), sandboxId: id }), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
    }
    await refused("get a snapshot", () => manager.getSnapshot("no-such-snapshot"), 404, "SNAPSHOT::NOT_FOUND");
  });

  await step("no key, and one that is none", async () => {
    for (const [apiKey, code] of [["", "MISSING_API_KEY"], ["not-a-key", "INVALID_API_KEY"]]) {
      const other = SandboxManager.create({ connectionConfig: connection({ apiKey }) });
      await refused(`list with key "${apiKey}"`, () => other.listSandboxInfos(), 401, code);
      await other.close();
    }
  });

  await step("what is not offered", async () => {
    const networkPolicy = { defaultAction: "deny", egress: [{ action: "allow", target: "example.com" }] };
    await refused("networkPolicy", () => Sandbox.create({ connectionConfig: connection(), image, ...small, networkPolicy }), 501, "SANDBOX::API_NOT_SUPPORTED");
    await refused("credentialProxy", () => Sandbox.create({ connectionConfig: connection(), image, ...small, credentialProxy: { enabled: true } }), 501, "SANDBOX::API_NOT_SUPPORTED");
  });

  await step("what nobody can mean", async () => {
    const create = (more) => () => Sandbox.create({ connectionConfig: connection(), image, ...small, ...more });
    const timeout = await refused("timeout 59", create({ timeoutSeconds: 59 }), 400, "SANDBOX::INVALID_PARAMETER");
    check(`it names the field: ${timeout.message}`, timeout.message.includes("timeout"));
    const label = await refused("a reserved prefix", create({ metadata: { "opensandbox.io/id": "mine" } }), 400, "SANDBOX::INVALID_METADATA_LABEL");
    check(`it names the key: ${label.message}`, label.message.includes("opensandbox.io/"));
    const state = await refused("an unknown state", () => manager.listSandboxInfos({ states: ["Asleep"] }), 400, "SANDBOX::INVALID_PARAMETER");
    check(`it names the state: ${state.message}`, state.message.includes("Asleep") || state.message.includes("state"));
    await refused("a page of 201", () => manager.listSandboxInfos({ pageSize: 201 }), 400, "SANDBOX::INVALID_PARAMETER");
  });

  await step("a sandbox that never runs", async () => {
    let caught;
    try {
      await Sandbox.create({ connectionConfig: connection(), image: "registry.invalid/no/image:1", ...small, readyTimeoutSeconds: 3, metadata: { story: "never" } });
    } catch (err) {
      caught = err;
    }
    check(`SandboxReadyTimeoutException: ${told(caught)}`, caught instanceof SandboxReadyTimeoutException && caught instanceof SandboxException);
    expect("its code", caught.error.code, "READY_TIMEOUT");
    // It says why, and not only that it has waited: https://github.com/opensandbox-group/OpenSandbox/pull/311
    check(`it says why: ${caught.message}`, caught.message.includes("Pending"));
    // The SDK takes back what it has made.
    const left = await manager.listSandboxInfos({ metadata: { story: "never" } });
    check(`it is deleted: ${JSON.stringify(left.items)}`, left.items.every((item) => item.status.state === "Stopping"));
  });

  const pending = await step("create one that is Pending", () => Sandbox.create({ connectionConfig, image: "registry.invalid/no/image:1", ...small, skipHealthCheck: true }));
  await step("a pause of what has not run contradicts", async () => {
    const contradiction = await refused("pause", () => pending.pause(), 409, "KUBERNETES::INVALID_STATE");
    check(`it says the state: ${contradiction.message}`, contradiction.message.includes("Pending"));
    await pending.kill();
    await pending.close();
  });
  await manager.close();
});
