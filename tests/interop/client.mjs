// A client for remote-robot-env, written from docs/protocol.md alone ("protocol.md, section X").
//
//   const robot = await RobotClient.connect("ws://127.0.0.1:8765", { owner: "me" });
//   const first = await robot.reset({ seed: 1 });                // first.observation: a Map
//   const next = await robot.step([Float32Array.of(0.25)]);      // next.reward, next.terminated
//   await robot.release();
//   await robot.close();
//
// It refuses frames that it cannot read, but does not check the type of every field. A lost
// connection is resumed while it commands; one that is only silent it does not find out.

import { Decoder, Encoder } from "@msgpack/msgpack";
import { randomUUID } from "node:crypto";
import WebSocket from "ws";

import {
  DTYPES, RobotError, alignUp, decodeArray, demand, elements, encodeArray,
} from "./arrays.mjs";

export { RobotError };

const SUBPROTOCOL = "remote-robot-env", MAGIC = "RRE", WIRE_VERSION = 5;
const PREFIX = 24; // protocol.md, section 2
const HEARTBEAT_MS = 500; // section 12
const RESUME_MS = 30_000, RETRY_MS = 100, GREET_SECONDS = 2; // section 13
const MAX_FRAME = 256 * 2 ** 20, MAX_HEADER = 2 ** 20, MAX_ITEMS = 1024, MAX_DEPTH = 16; // 18
const FIRST_FRAMES = 128 * 1024; // section 18: what the server takes before its Welcome

// Section 7: the numbers of the messages, and their fields in the order of the tables.
export const KIND = {
  Hello: 1, Welcome: 2, Subscribe: 3, Reset: 5, ResetDone: 6, Step: 7, StepDone: 8, Release: 9,
  Ping: 11, Heartbeat: 13, Error: 14, Bye: 15, Cancel: 16, Progress: 17, EmergencyStop: 18,
  ReleaseStop: 20, GetStatistics: 22, Observe: 24, Observation: 26, Probe: 27,
};
const CHANNEL = [KIND.Subscribe, KIND.Reset, KIND.Step]; // what is asked again, section 13
const OBSERVATIONS = [KIND.ResetDone, KIND.StepDone, KIND.Observation]; // section 5
const TIMES = "sequences stamps received sent durations info remote";
const SENT = inOrder({
  1: "role token owner process client resume asking",
  3: "streams max_ages on_stale kept requests",
  5: "seed options take max_steps", 7: "episode step tick dtypes", 9: "", 11: "", 13: "",
  15: "reason", 16: "request", 18: "reason", 20: "", 22: "", 24: "hz", 27: "size",
});
const RECEIVED = inOrder({
  2: "session resumed server spec_hash capabilities max_frame_size streams subscribed action "
    + "metadata",
  4: "streams derived",
  6: `episode tick time ${TIMES}`,
  8: `episode step tick time reward terminated truncated end_reason ${TIMES} unchanged`,
  10: "", 12: "time", 14: "code message retryable", 15: "reason", 17: "fraction text", 19: "",
  21: "was_pressed", 23: "values", 25: "",
  26: "episode step time sent dropped sequences stamps remote unchanged", 28: "padding",
});

function inOrder(table) {
  const split = ([kind, names]) => [kind, names.split(" ").filter(Boolean)];
  return Object.fromEntries(Object.entries(table).map(split));
}

// --------------------------------------------------------------- free-form values, section 6

/** Where the robot must get a float: JavaScript would write 1.0 as the int 1. */
export const float64 = (x) => ({ $n: ["<f8", new Uint8Array(Float64Array.of(x).buffer)] });

/** Tuples become arrays, numpy scalars numbers, a `$m` a Map; `free` are the free arrays. */
function decodeValue(value, free, depth = 0) {
  demand(depth <= MAX_DEPTH, `a value nested deeper than ${MAX_DEPTH}`);
  if (typeof value === "bigint") return smallest(value);
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  const inner = (item) => decodeValue(item, free, depth + 1);
  if (Array.isArray(value)) return value.map(inner);
  const entries = Object.entries(value), [key, body] = entries.find(([k]) => k[0] === "$") ?? [];
  if (!key) return Object.fromEntries(entries.map(([name, item]) => [name, inner(item)]));
  demand(entries.length === 1, `${key} beside other keys`);
  if (key === "$t" && Array.isArray(body)) return body.map(inner);
  if (key === "$m") return new Map(body.map(([name, item]) => [smallest(name), inner(item)]));
  if (key === "$a" && free[body]) return free[body];
  if (key === "$n" && body[1].length === DTYPES[body[0]].BYTES_PER_ELEMENT) {
    const [number] = decodeArray(...body);
    return body[0] === "|b1" ? number !== 0 : smallest(number);
  }
  throw new RobotError("protocol.remote", `a malformed ${key}`);
}

/** Ints come in any width (section 3): BigInt only where a number would not be exact. */
function smallest(value) {
  return typeof value === "bigint" && BigInt.asIntN(54, value) === value ? Number(value) : value;
}

// ------------------------------------------------------------------- frames, sections 2 and 3

const encoder = new Encoder({ useBigInt64: true });
const decoder = new Decoder({
  useBigInt64: true, maxArrayLength: MAX_ITEMS, maxMapLength: MAX_ITEMS, maxExtLength: 0,
  mapKeyConverter: (key) => (demand(typeof key === "string", "a key that is not text"), key),
});

/** Fields by name to their values in order, section 3: all of them, and no others. */
function toHeader(kind, fields) {
  const names = SENT[kind], given = Object.keys(fields);
  const areRight = given.length === names.length && names.every((name) => name in fields);
  demand(areRight, `message ${kind} has the fields ${names}, not ${given}`, "protocol.local");
  return names.map((name) => fields[name]);
}

/** The header to fields by name, and what stands behind them: sections 5 and 6. */
function fromHeader(kind, header) {
  const names = RECEIVED[kind], more = Array.isArray(header) ? header.length - names.length : -1;
  demand(more >= 0 && more <= 2, `message ${kind} without an array of ${names.length} values`);
  const fields = Object.fromEntries(names.map((name, index) => [name, header[index]]));
  return { fields, surplus: header.slice(names.length) };
}

/** A message to bytes; `arrays` are Uint8Arrays in the order of the payload. */
export function encodeFrame(kind, id, fields, arrays = [], version = WIRE_VERSION) {
  const header = encoder.encode(toHeader(kind, fields)), offsets = [];
  let end = 0;
  for (const array of arrays) {
    offsets.push(alignUp(end));
    end = offsets.at(-1) + array.length;
  }
  const start = end ? alignUp(PREFIX + header.length) : PREFIX + header.length;
  const frame = new Uint8Array(start + end), view = new DataView(frame.buffer);
  frame.set([...Buffer.from(MAGIC), version, kind]);
  view.setUint32(8, header.length, true);
  view.setUint32(12, end, true);
  view.setBigUint64(16, BigInt(id), true);
  frame.set(header, PREFIX);
  arrays.forEach((array, index) => frame.set(array, start + offsets[index]));
  return frame;
}

/**
 * Bytes to a message; `observed` are the [name, dtype, shape] of the agreed arrays, section 5, and
 * [name, dtype, shape, codec] of those that are encoded: these stay the bytes that they are.
 */
export function decodeFrame({ buffer, byteOffset, length }, observed = []) {
  const frame = new Uint8Array(buffer, byteOffset, length); // no Buffer, which JSON shows oddly
  demand(Buffer.from(MAGIC).equals(frame.subarray(0, 3)), "this is no robot server");
  // Section 19: nothing after the version means anything in another version.
  const versions = `the server speaks version ${frame[3]}, this client ${WIRE_VERSION}`;
  demand(frame[3] === WIRE_VERSION, versions, "protocol.version");
  demand(frame.length >= PREFIX, "a frame without a whole prefix");
  const view = new DataView(buffer, byteOffset, length);
  const kind = frame[4], size = view.getUint32(8, true), payload = view.getUint32(12, true);
  const start = payload ? alignUp(PREFIX + size) : PREFIX + size;
  demand(frame[5] === 0 && view.getUint16(6, true) === 0, "reserved bytes that are not zero");
  demand(size <= MAX_HEADER && frame.length === start + payload, "a frame of the wrong length");
  demand(kind in RECEIVED, `message ${kind} from a server`);
  const header = decoder.decode(frame.subarray(PREFIX, PREFIX + size));
  const { fields, surplus } = fromHeader(kind, header);
  // Section 4: first the agreed arrays, then the free ones, each at a multiple of 64.
  // Section 5: those that are unchanged are left out, for a client that keeps them.
  const leftOut = new Set(fields.unchanged ?? []), isObserved = OBSERVATIONS.includes(kind);
  const agreed = isObserved ? observed.filter((_, index) => !leftOut.has(index)) : [];
  const encoded = agreed.filter(isEncoded);
  const sizes = encoded.length ? surplus.shift() : [];
  const isOne = surplus.length === 1 && Array.isArray(surplus[0]) && surplus[0].length > 0;
  demand(Array.isArray(sizes) && sizes.length === encoded.length, "encoded arrays without sizes");
  demand(surplus.length === 0 || isOne, "free arrays that are none");
  const described = surplus[0] ?? [];
  const bytes = sizes.map(Number);
  encoded.forEach(([, dtype, shape], index) => {
    const most = 2 * elements(shape.map(Number)) * DTYPES[dtype].BYTES_PER_ELEMENT + 4096;
    demand(bytes[index] >= 1 && bytes[index] <= most, "an encoded array of a wrong size");
  });
  const what = agreed.map((spec) => isEncoded(spec) ? ["|u1", [bytes.shift()]] : spec.slice(1));
  let end = 0;
  const arrays = [...what, ...described].map(([dtype, shape]) => {
    const offset = alignUp(end);
    end = offset + elements(shape.map(Number)) * DTYPES[dtype].BYTES_PER_ELEMENT;
    demand(end <= payload, "a payload that is too short");
    return decodeArray(dtype, frame.subarray(start + offset, start + end));
  });
  demand(end === payload, "a payload of the wrong size");
  const free = arrays.splice(agreed.length);
  for (const [name, raw] of Object.entries(fields)) fields[name] = decodeValue(raw, free);
  if (isObserved) {
    fields.observation = new Map(agreed.map(([name], index) => [name, arrays[index]]));
  }
  return { kind, id: Number(view.getBigUint64(16, true)), fields };
}

const isEncoded = ([, , , codec = "raw"]) => codec !== "raw";

// --------------------------------------------------------------------------------- the client

export class RobotClient {
  #socket; #lastId = 0; #waiting = new Map(); #heartbeat; #over; #observed = [];
  #episode = 0; #step = 0; #tick = 0; #url; #who; #resuming; #onObservation;

  /** How often a lost connection was resumed. */
  resumptions = 0;

  /** Connects and greets; `client.welcome` is then what the robot told about itself. */
  static async connect(url, { token = null, owner = "node", role = "control" } = {}) {
    const client = new RobotClient(), name = "interop client.mjs";
    client.#url = url;
    client.#who = { role, token, owner, process: randomUUID(), client: name };
    await client.#open();
    client.welcome = await client.#ask("Hello", { ...client.#who, resume: null, asking: 0 });
    client.#observe(client.welcome.subscribed);
    return client;
  }

  /**
   * Chooses the arrays of later observations; possible before the first reset (section 5).
   * `maxAges` are seconds by stream; `onStale` is "flag", "truncate" or "raise"; `requests` say
   * by stream what is wanted otherwise. What is encoded comes as its bytes.
   */
  async subscribe(streams, { maxAges = {}, onStale = "flag", requests = {} } = {}) {
    const fields = { streams, max_ages: maxAges, on_stale: onStale, kept: [], requests };
    const subscribed = await this.#request("Subscribe", fields);
    this.#observe(subscribed.streams, subscribed.derived);
  }

  /** Begins an episode and takes the lease. Options are free-form, without arrays. */
  async reset({ seed = null, options = null, take = false, maxSteps = null, onProgress } = {}) {
    // Section 12: signs of life from here on, for the lease counts while the reset lasts too.
    this.#heartbeat ??= setInterval(() => this.#beat(), HEARTBEAT_MS);
    const fields = { seed, options, take, max_steps: maxSteps };
    const done = await this.#request("Reset", fields, [], 120, onProgress);
    [this.#episode, this.#step, this.#tick] = [done.episode, 0, done.tick];
    return done;
  }

  /** Gives up the reset that is under way; that is what its promise then tells. */
  cancel() {
    const reset = [...this.#waiting].find(([, { kind }]) => kind === KIND.Reset);
    if (reset) this.#send(KIND.Cancel, 0, { request: reset[0] });
  }

  /** Executes one action: a typed array, or an array of numbers, for each of `welcome.action`. */
  async step(action) {
    const layout = this.welcome.action;
    demand(action.length === layout.length, "the number of arrays", "robot.action.shape");
    const arrays = layout.map((each, index) => encodeArray(each, action[index]));
    const names = { episode: this.#episode, step: this.#step + 1, tick: this.#tick, dtypes: [] };
    const done = await this.#request("Step", names, arrays);
    [this.#step, this.#tick] = [done.step, done.tick]; // a refused step does not count
    return done;
  }

  async ping() {
    return (await this.#request("Ping", {})).time;
  }

  async statistics() {
    return (await this.#request("GetStatistics", {})).values;
  }

  /** Section 14: whoever gets no answer must not take the robot for stopped. */
  async emergencyStop(reason = "") {
    await this.#request("EmergencyStop", { reason }, [], 2);
  }

  /** Returns whether it had been pressed. */
  async releaseStop() {
    return (await this.#request("ReleaseStop", {})).was_pressed;
  }

  /** Section 15: from now on `onObservation` is called with the newest, at most `hz` a second. */
  async observe(hz, onObservation) {
    this.#onObservation = onObservation;
    await this.#request("Observe", { hz });
  }

  async release() {
    clearInterval(this.#heartbeat);
    this.#heartbeat = undefined;
    await this.#request("Release", {});
  }

  /** Says bye, closes with 1000 (section 1), and returns the code with which it was closed. */
  async close(reason = "done") {
    if (!this.#over && !this.#resuming) this.#send(KIND.Bye, 0, { reason });
    this.#finish(new RobotError("transport.lost", "this client closed the connection"));
    return this.closed;
  }

  /** For tests: ends the connection as a cut cable does, without a word. */
  cut() {
    this.#socket.terminate();
  }

  async #open() { // section 1: no Origin, no compression
    const options = { perMessageDeflate: false, maxPayload: MAX_FRAME, handshakeTimeout: 5000 };
    const socket = this.#socket = new WebSocket(this.#url, SUBPROTOCOL, options);
    this.closed = new Promise((resolve) => socket.once("close", resolve));
    this.closed.then((code) => this.#lose(socket, code));
    socket.on("message", (bytes, binary) => {
      if (socket === this.#socket) this.#receive(bytes, binary);
    });
    await new Promise((resolve, reject) => {
      const fail = ({ message }) => reject(new RobotError("transport.connect", message, true));
      socket.once("open", resolve).on("error", fail); // later errors are followed by "close"
    });
    demand(socket.protocol === SUBPROTOCOL, "the server speaks something else");
  }

  #send(kind, id, fields, arrays) {
    if (this.#over) throw this.#over;
    const frame = encodeFrame(kind, id, fields, arrays);
    const limit = this.welcome?.max_frame_size ?? FIRST_FRAMES;
    demand(frame.length <= limit, `a frame of more than ${limit} bytes`, "protocol.local");
    this.#socket.send(frame);
    this.#heartbeat?.refresh(); // every frame is a sign of life
    return frame;
  }

  #beat() {
    if (!this.#resuming) this.#send(KIND.Heartbeat, 0, {});
  }

  async #request(...what) {
    await this.#resuming; // if the connection was lost
    return this.#ask(...what);
  }

  #ask(name, fields, arrays = [], seconds = 10, progress = undefined) {
    return new Promise((resolve, reject) => {
      const id = this.#lastId + 1, kind = KIND[name]; // section 8: counting from 1
      const frame = this.#send(kind, id, fields, arrays);
      this.#lastId = id;
      // Section 21, point 12: who does not know what the robot did closes the connection.
      const late = new RobotError("transport.deadline", `no answer to ${name}`, true);
      const timer = setTimeout(() => this.#finish(late), seconds * 1000);
      this.#waiting.set(id, { kind, frame, resolve, reject, timer, progress });
    });
  }

  #receive(bytes, binary) {
    if (this.#over) return; // section 9: ignored
    try {
      demand(binary, "a text message");
      const { kind, id, fields } = decodeFrame(bytes, this.#observed);
      const { code, message, retryable, reason } = fields;
      const error = kind === KIND.Error && new RobotError(code, message, retryable);
      if (error && id === 0) return void this.#finish(error, false); // the server closes
      demand(kind !== KIND.Bye, `the server closed: ${reason}`, "transport.lost");
      if (kind === KIND.Observation) return void this.#onObservation?.(fields);
      demand(id >= 1 && id <= this.#lastId, `an answer to ${id}, which was never asked`);
      const request = this.#waiting.get(id);
      if (!request) return; // section 8: it has its answer already
      if (kind === KIND.Progress) return void request.progress?.(fields);
      demand(error || kind === request.kind + 1, `message ${kind} answers ${request.kind}`);
      this.#forget(id);
      if (error) request.reject(error);
      else request.resolve(fields);
    } catch (error) { // section 9: a client that must refuse closes
      this.#finish(error.code ? error : new RobotError("protocol.remote", error.message));
    }
  }

  #observe(names, derived = []) {
    const all = [...this.welcome.streams, ...derived];
    const streams = new Map(all.map((stream) => [stream[0], stream]));
    this.#observed = names.map((name) => streams.get(name));
  }

  #forget(id) {
    clearTimeout(this.#waiting.get(id).timer);
    this.#waiting.delete(id);
  }

  /** Section 13: what was asked out of band has no answer any more; the rest is resumed. */
  #lose(socket, code) {
    if (this.#over || socket !== this.#socket) return;
    const error = new RobotError("transport.lost", `the connection closed with ${code}`, true);
    for (const [id, { kind, reject }] of this.#waiting) {
      if (!CHANNEL.includes(kind)) this.#forget(id), reject(error);
    }
    if (!this.#heartbeat) return void this.#finish(error); // without the lease there is nothing
    this.#resuming ??= this.#resume(error).finally(() => { this.#resuming = undefined; });
  }

  async #resume(why) {
    for (const until = Date.now() + RESUME_MS; !this.#over && Date.now() < until;) {
      const [asking, request] = [...this.#waiting][0] ?? [0];
      const hello = { ...this.#who, resume: this.welcome.session, asking };
      try {
        await this.#open();
        const welcome = await this.#ask("Hello", hello, [], GREET_SECONDS);
        if (!welcome.resumed) break;
        this.welcome.session = welcome.session;
        if (request) this.#socket.send(request.frame); // byte for byte, under the same id
        this.resumptions += 1;
        return;
      } catch (error) {
        if (!error.code?.startsWith("transport.")) return void this.#finish(error);
      }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
    this.#finish(why);
  }

  #finish(error, close = true) {
    this.#over ??= error;
    clearInterval(this.#heartbeat);
    for (const { reject, timer } of this.#waiting.values()) clearTimeout(timer), reject(error);
    this.#waiting.clear();
    if (close) this.#socket.close(1000);
  }
}
