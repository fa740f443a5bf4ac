// SPDX-License-Identifier: Apache-2.0

// SDK_MANY sandboxes at once, each through its life, and the manager's pages of them.

import { Sandbox, SandboxManager } from "@alibaba-group/opensandbox";
import { awaitState, check, connection, expect, image, run, small, stdout, step } from "./steps.mjs";

const many = Number(process.env.SDK_MANY ?? "20");

await run(async () => {
  const connectionConfig = connection().withTransportIfMissing();
  const manager = SandboxManager.create({ connectionConfig });
  const numbers = Array.from({ length: many }, (_, i) => i);

  let all = await step(`create ${many} at once`, () => Promise.all(numbers.map((number) => Sandbox.create({
    connectionConfig, image, ...small, readyTimeoutSeconds: 180, metadata: { story: "many", number: String(number) },
  }))));
  expect("as many ids", new Set(all.map((sandbox) => sandbox.id)).size, many);

  await step("write in each", () => Promise.all(all.map((sandbox, number) => sandbox.files.writeFiles([{ path: "/root/number", data: String(number) }]))));

  await step("pages, newest first", async () => {
    const seen = [];
    for (let page = 1; ; page++) {
      const listed = await manager.listSandboxInfos({ metadata: { story: "many" }, page, pageSize: 7 });
      expect("in all", listed.pagination.totalItems, many);
      seen.push(...listed.items);
      if (!listed.pagination.hasNextPage) break;
    }
    expect("each once", new Set(seen.map((info) => info.id)).size, many);
    expect("as many as there are", seen.length, many);
    for (let i = 1; i < seen.length; i++) check("newest first", seen[i - 1].createdAt >= seen[i].createdAt);
  });

  await step("pause all at once", async () => {
    await Promise.all(all.map((sandbox) => sandbox.pause()));
    await Promise.all(all.map((sandbox) => awaitState(manager, sandbox.id, "Paused", 300)));
  });

  all = await step("resume all at once", () => Promise.all(all.map((sandbox) => sandbox.resume({ readyTimeoutSeconds: 180 }))));

  await step("each has its own file", async () => {
    const told = await Promise.all(all.map((sandbox) => sandbox.commands.run("cat /root/number")));
    expect("numbers", told.map(stdout), numbers.map(String));
  });

  await step("kill all at once", () => Promise.all(all.map((sandbox) => sandbox.kill())));
  await connectionConfig.closeTransport();
});
