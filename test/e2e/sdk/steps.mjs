// SPDX-License-Identifier: Apache-2.0

// What the programs here share: where the API is, steps that are told with their time, and waiting for a state.

import { ConnectionConfig, SandboxApiException } from "@alibaba-group/opensandbox";

const began = Date.now();

// The one image that is on the node, and little of the node for each.
export const image = process.env.SDK_IMAGE;
export const small = { resource: { cpu: "500m", memory: "64Mi" }, resourceRequests: { cpu: "5m", memory: "16Mi" } };

export function connection(options = {}) {
  return new ConnectionConfig({
    domain: process.env.LIFECYCLE_URL,
    apiKey: process.env.LIFECYCLE_API_KEY,
    ...options,
  });
}

// step does one thing, and tells what and how long it took, or how it failed: all that is known of it.
export async function step(what, act) {
  const from = Date.now();
  const at = ((from - began) / 1000).toFixed(1).padStart(6);
  try {
    const result = await act();
    console.log(`${at} s  ok      ${what} (${Date.now() - from} ms)`);
    return result;
  } catch (err) {
    console.log(`${at} s  FAILED  ${what} (${Date.now() - from} ms): ${told(err)}`);
    throw err;
  }
}

export function told(err) {
  if (!(err instanceof Error)) return String(err);
  const more = { name: err.name, statusCode: err.statusCode, error: err.error, requestId: err.requestId, rawBody: err.rawBody, cause: err.cause && String(err.cause) };
  return `${err.message} ${JSON.stringify(more)}`;
}

// sorted is a value in JSON, whatever the order of its fields.
const sorted = (value) => JSON.stringify(value, (_, of) => (of && typeof of === "object" && !Array.isArray(of) ? Object.fromEntries(Object.entries(of).sort()) : of));

export function expect(what, got, want) {
  const [a, b] = [sorted(got), sorted(want)];
  if (a !== b) throw new Error(`${what} is ${a}, want ${b}`);
}

export function check(what, holds) {
  if (!holds) throw new Error(`${what} does not hold`);
}

// until polls, as the SDK's users do, and tells what it saw last where that does not come.
export async function until(what, seconds, ask) {
  const deadline = Date.now() + seconds * 1000;
  let last;
  for (;;) {
    last = await ask();
    if (last.done) return last.value;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s; last seen: ${JSON.stringify(last.seen)}`);
    await new Promise((go) => setTimeout(go, 200));
  }
}

// awaitState waits for a sandbox to be in a state, and for no longer once it is in one that leads nowhere.
export function awaitState(manager, id, state, seconds = 120) {
  return until(`sandbox ${id} is ${state}`, seconds, async () => {
    const info = await manager.getSandboxInfo(id);
    if (info.status.state === "Failed" && state !== "Failed") throw new Error(`sandbox ${id} has failed: ${JSON.stringify(info.status)}`);
    return { done: info.status.state === state, value: info, seen: info.status };
  });
}

// refused is the SDK's own exception for an error of the API, which has to come.
export async function refused(what, call, statusCode, code) {
  let answer;
  try {
    answer = await call();
  } catch (err) {
    if (!(err instanceof SandboxApiException)) throw new Error(`${what} is refused with ${told(err)}, want a SandboxApiException`);
    expect(`${what}: status`, err.statusCode, statusCode);
    expect(`${what}: code`, err.error.code, code);
    check(`${what}: a message (${err.message})`, err.message.length > 10);
    check(`${what}: a request id (${err.requestId})`, Boolean(err.requestId));
    return err;
  }
  throw new Error(`${what} is not refused: ${JSON.stringify(answer)}`);
}

export const stdout = (execution) => execution.logs.stdout.map((message) => message.text).join("\n").trim();

export async function run(main) {
  try {
    await main();
  } catch (err) {
    console.log(`failed: ${told(err)}\n${err.stack}`);
    process.exitCode = 1;
  }
}
