// SPDX-License-Identifier: Apache-2.0

// A sandbox's whole life, by nothing but the SDK. SDK_PROXY is the SDK's option useServerProxy, SDK_CYCLES how often the sandbox is
// paused and resumed. It says the ids that it has made, for whoever looks at them with kubectl: a line "id NAME VALUE".

import { Sandbox, SandboxManager } from "@alibaba-group/opensandbox";
import { awaitState, check, connection, expect, image, refused, run, small, stdout, step, until } from "./steps.mjs";

const cycles = Number(process.env.SDK_CYCLES ?? "1");
const patience = 180; // the machine does other things as well
const useServerProxy = process.env.SDK_PROXY === "true";
const text = "written before the pause: äöü ✓\n";
// What other file APIs stumble over: https://github.com/dropbox/dropbox-sdk-js/issues/86
const odd = "/root/work/deep/ä + %25 #?&'\"\\ 🏆.txt";
const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 251);

await run(async () => {
  const connectionConfig = connection({ useServerProxy });
  const manager = SandboxManager.create({ connectionConfig });

  let sandbox = await step("create", () => Sandbox.create({
    connectionConfig, image, ...small, readyTimeoutSeconds: patience, timeoutSeconds: 900, env: { GREETING: "hello" }, metadata: { story: "sdk", proxy: String(useServerProxy) },
  }));
  const id = sandbox.id;
  console.log(`id sandbox ${id}`);

  await step("what it is", async () => {
    const info = await sandbox.getInfo();
    expect("id", info.id, id);
    expect("state", info.status.state, "Running");
    expect("image", info.image?.uri, image);
    expect("entrypoint", info.entrypoint, ["tail", "-f", "/dev/null"]);
    expect("metadata", info.metadata, { proxy: String(useServerProxy), story: "sdk" });
    const left = info.expiresAt.getTime() - info.createdAt.getTime();
    check(`it expires 900 s after it was made (${left} ms)`, Math.abs(left - 900_000) < 5_000);
    check("its health", await sandbox.isHealthy());
  });

  await step("commands", async () => {
    const hello = await sandbox.commands.run('echo "$GREETING from $(id -u)"; echo aside >&2; pwd', { workingDirectory: "/tmp" });
    expect("stdout", stdout(hello), "hello from 0\n/tmp");
    expect("stderr", hello.logs.stderr.map((message) => message.text).join("").trim(), "aside");
    expect("exit code", hello.exitCode, 0);
    const failing = await sandbox.commands.run("exit 7");
    expect("exit code of one that fails", failing.exitCode, 7);
    const stopped = await sandbox.commands.run("sleep 60", { timeoutSeconds: 1 });
    check(`one that takes too long ends (${JSON.stringify(stopped)})`, stopped.error != null);
  });

  await step("a command in the background", async () => {
    const started = await sandbox.commands.run("echo begun; sleep 0.2; echo done; exit 3", { background: true });
    check("it has an id", Boolean(started.id));
    const status = await until("it ends", 30, async () => {
      const status = await sandbox.commands.getCommandStatus(started.id);
      return { done: status.running === false, value: status, seen: status };
    });
    expect("exit code", status.exitCode, 3);
    const logs = await sandbox.commands.getBackgroundCommandLogs(started.id);
    check(`its log (${logs.content})`, logs.content.includes("begun") && logs.content.includes("done"));
  });

  await step("files", async () => {
    await sandbox.files.createDirectories([{ path: "/root/work/deep", mode: 755 }]);
    await sandbox.files.writeFiles([
      { path: "/root/work/note.txt", data: text, mode: 644 },
      { path: "/root/work/deep/bytes", data: bytes },
      { path: "/root/work/gone", data: "to be deleted" },
      { path: odd, data: "odd" },
    ]);
    expect("what was written", await sandbox.files.readFile("/root/work/note.txt"), text);
    check("bytes", Buffer.from(await sandbox.files.readBytes("/root/work/deep/bytes")).equals(Buffer.from(bytes)));
    check("a range", Buffer.from(await sandbox.files.readBytes("/root/work/deep/bytes", { range: "bytes=1000-1999" })).equals(Buffer.from(bytes.slice(1000, 2000))));
    const info = (await sandbox.files.getFileInfo(["/root/work/note.txt"]))["/root/work/note.txt"];
    expect("its size", info.size, Buffer.byteLength(text));
    await sandbox.files.moveFiles([{ src: "/root/work/note.txt", dest: "/root/work/moved.txt" }]);
    await sandbox.files.replaceContents([{ path: "/root/work/moved.txt", oldContent: "before the pause", newContent: "before any pause" }]);
    await sandbox.files.deleteFiles(["/root/work/gone"]);
    const listed = (await sandbox.files.listDirectory({ path: "/root/work", depth: 1 })).map((entry) => entry.path).sort();
    expect("the directory", listed, ["/root/work/deep", "/root/work/moved.txt"]);
    const matching = (await sandbox.files.search({ path: "/root/work", pattern: "*.txt" })).map((entry) => entry.path).sort();
    expect("what is found", matching, [odd, "/root/work/moved.txt"].sort());
  });

  // Elsewhere what is written after the first resume is lost at the second (https://github.com/e2b-dev/E2B/issues/884), the second
  // resume fails (https://github.com/e2b-dev/E2B/issues/736), or a resume finds no sandbox (https://github.com/e2b-dev/E2B/issues/582).
  for (let cycle = 1; cycle <= cycles; cycle++) {
    await step(`cycle ${cycle}: write, pause, and again`, async () => {
      await sandbox.commands.run(`echo ${cycle} >> /root/work/cycles; sync`);
      await sandbox.pause();
      await sandbox.pause(); // a repeat
    });
    const paused = await step(`cycle ${cycle}: Paused`, () => awaitState(manager, id, "Paused"));
    await step(`cycle ${cycle}: what a paused one is`, async () => {
      expect("image", paused.image?.uri, image);
      expect("entrypoint", paused.entrypoint, ["tail", "-f", "/dev/null"]);
      const listed = await manager.listSandboxInfos({ states: ["Paused"], metadata: { story: "sdk", proxy: String(useServerProxy) } });
      check(`it is listed (${JSON.stringify(listed.items.map((item) => item.id))})`, listed.items.some((item) => item.id === id));
      check("it is not healthy", !(await sandbox.isHealthy()));
    });
    // The one before is not closed: both have the same connection.
    sandbox = await step(`cycle ${cycle}: resume`, () => sandbox.resume({ readyTimeoutSeconds: patience }));
    await step(`cycle ${cycle}: its files`, async () => {
      expect("what was written", await sandbox.files.readFile("/root/work/moved.txt"), text.replace("before the pause", "before any pause"));
      check("bytes", Buffer.from(await sandbox.files.readBytes("/root/work/deep/bytes")).equals(Buffer.from(bytes)));
      expect("what has an odd name", await sandbox.files.readFile(odd), "odd");
      expect("every cycle's line", (await sandbox.files.readFile("/root/work/cycles")).trim().split("\n"), Array.from({ length: cycle }, (_, i) => String(i + 1)));
      expect("what was deleted", stdout(await sandbox.commands.run("test -e /root/work/gone && echo there || echo gone")), "gone");
      expect("its environment", stdout(await sandbox.commands.run("echo $GREETING")), "hello");
      const info = await sandbox.getInfo();
      expect("image", info.image?.uri, image);
      expect("entrypoint", info.entrypoint, ["tail", "-f", "/dev/null"]);
    });
  }

  const snapshot = await step("snapshot", async () => {
    const made = await manager.createSnapshot(id, { name: "story" });
    return until("the snapshot is Ready", 120, async () => {
      const now = await manager.getSnapshot(made.id);
      if (now.status.state === "Failed") throw new Error(`it has failed: ${JSON.stringify(now.status)}`);
      return { done: now.status.state === "Ready", value: now, seen: now.status };
    });
  });
  console.log(`id snapshot ${snapshot.id}`);

  await step("list the snapshots", async () => {
    const listed = await manager.listSnapshots({ sandboxId: id, states: ["Ready"] });
    check(`it is listed (${JSON.stringify(listed.items)})`, listed.items.some((item) => item.id === snapshot.id && item.name === "story"));
  });

  const copy = await step("create from the snapshot", () => Sandbox.create({ connectionConfig, snapshotId: snapshot.id, ...small, readyTimeoutSeconds: patience, timeoutSeconds: null, metadata: { story: "copy" } }));
  console.log(`id copy ${copy.id}`);

  await step("the copy's files, and that it is one of its own", async () => {
    expect("what was written", await copy.files.readFile("/root/work/moved.txt"), text.replace("before the pause", "before any pause"));
    await copy.files.writeFiles([{ path: "/root/work/moved.txt", data: "the copy's" }]);
    check("the other's", (await sandbox.files.readFile("/root/work/moved.txt")).startsWith("written before"));
    const info = await copy.getInfo();
    expect("its snapshot", info.snapshotId, snapshot.id);
    expect("it never expires", info.expiresAt, null); // https://github.com/opensandbox-group/OpenSandbox/issues/636
  });

  await step("renew", async () => {
    const renewed = await sandbox.renew(1800);
    const info = await sandbox.getInfo();
    expect("when it expires", info.expiresAt.getTime(), renewed.expiresAt.getTime());
    check("in half an hour", Math.abs(renewed.expiresAt.getTime() - Date.now() - 1_800_000) < 30_000);
  });

  await step("metadata", async () => {
    const patched = await sandbox.patchMetadata({ proxy: null, owner: "somebody" });
    expect("metadata", patched.metadata, { owner: "somebody", story: "sdk" });
  });

  await step("an endpoint of any port", async () => {
    const url = await sandbox.getEndpointUrl(44772);
    const answer = await fetch(`${url}/ping`, { headers: { "OPEN-SANDBOX-API-KEY": process.env.LIFECYCLE_API_KEY } });
    expect(`GET ${url}/ping`, answer.status, 200);
    const bare = await fetch(`${url}/ping`);
    expect(`GET ${url}/ping without a key`, bare.status, 401);
    const signed = await sandbox.getSignedEndpoint(44772, Math.floor(Date.now() / 1000) + 60);
    const opened = await fetch(`http://${signed.endpoint}/ping`, { headers: signed.headers ?? {} });
    expect(`GET http://${signed.endpoint}/ping with a route token`, opened.status, 200);
  });

  if (process.env.SDK_HOLD) {
    // Whoever runs this looks at what there is, and then closes our input.
    console.log("hold");
    await new Promise((go) => process.stdin.on("end", go).on("close", go).resume());
  }

  await step("kill", async () => {
    await copy.kill();
    await sandbox.kill();
    for (const one of [id, copy.id]) {
      await until(`${one} is gone`, 60, async () => {
        try {
          const info = await manager.getSandboxInfo(one);
          expect("meanwhile it", info.status.state, "Stopping");
          return { done: false, seen: info.status };
        } catch (err) {
          if (err.statusCode !== 404) throw err;
          return { done: true, value: err };
        }
      });
      await refused("get what is gone", () => manager.getSandboxInfo(one), 404, "KUBERNETES::SANDBOX_NOT_FOUND");
    }
    await manager.deleteSnapshot(snapshot.id);
  });
  await copy.close();
  await sandbox.close();
  await manager.close();
});
