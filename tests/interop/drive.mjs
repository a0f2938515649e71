// Drives any robot for a few steps and prints what came back, one JSON text per line.
//
//   node drive.mjs URL [--seed N] [--steps N] [--streams a,b] [--token T]

import { parseArgs } from "node:util";
import { RobotClient } from "./client.mjs";

const text = { type: "string" };
const { positionals: [url], values } = parseArgs({
  allowPositionals: true, options: { seed: text, steps: text, streams: text, token: text },
});

/** JSON has neither BigInt nor NaN, and shows typed arrays as maps: numbers and text for those. */
function plain(key, value) {
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : `${value}`;
  }
  if (typeof value === "number" && !Number.isFinite(value)) return `${value}`;
  if (value instanceof Map) return Object.fromEntries(value);
  return ArrayBuffer.isView(value) ? Array.from(value) : value;
}
const show = (what) => console.log(JSON.stringify(what, plain));

/** 0.25 for floats and 0 for integers, always. */
function action(layout) {
  return layout.map(([, dtype, shape]) => {
    const count = shape.reduce((product, n) => product * n, 1);
    return new Array(count).fill(dtype.startsWith("<f") ? 0.25 : 0);
  });
}

function line(step, { reward, terminated, truncated, observation, info }) {
  const first = [...observation].map(([name, array]) => [name, array.subarray(0, 8)]);
  return { step, reward, terminated, truncated, observation: new Map(first), info };
}

let robot;
try {
  robot = await RobotClient.connect(url, { token: values.token ?? null, owner: "drive.mjs" });
  const { metadata, streams } = robot.welcome;
  show({ name: metadata.name, mode: metadata.mode, streams: streams.map(([name]) => name) });
  if (values.streams) await robot.subscribe(values.streams.split(","));
  const begun = await robot.reset({ seed: values.seed === undefined ? null : Number(values.seed) });
  show(line(0, begun));
  for (let step = 1; step <= Number(values.steps ?? 10); step += 1) {
    const done = await robot.step(action(robot.welcome.action));
    show(line(step, done));
    if (done.terminated || done.truncated) break;     // section 7: only a Reset may follow
  }
  await robot.release();
  await robot.close();
} catch (error) {
  console.error(JSON.stringify({ error: error.code ?? "error", message: error.message }));
  process.exitCode = 1;
  await robot?.close();
}
