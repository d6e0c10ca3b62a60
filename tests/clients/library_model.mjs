// A random test of the client library against a running server, over lines that fail:
//
//     SEAWALL='{"url": "ws://…/ws", "admin": "http://…", "pid": 1, "secret": "…", "seed": 1}' \
//         node tests/clients/library_model.mjs
//
// Clients publish with and without echo, add and remove handles, and lose their connections in all
// ways; tokens expire within seconds, token sources fail, clocks are set, the configuration is
// reloaded, and a backend subscribes, unsubscribes and disconnects. Another client on a good line
// records what is true. The laws, checked at the end, when all is well again:
//
// 1. Each handle gets every message of its channel once and in order, except what its client has
//    published without echo since the handle was made; only where the history is short, it may get
//    the range of a gap instead.
// 2. Each publish settles. One that resolved is in the log once, at the place that it was given; any
//    other one is there at most once, and not at all if its error says so.
// 3. No rejection is unhandled, no client closes for good, and no handle ends unasked.
// 4. All clients are connected, and all handles are at the end of their channels.
//
// Ends with 0 and `all passed`; prints the seed and what was broken otherwise.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import net from "node:net";
import { Seawall } from "../../src/web/seawall.js";
import { ws } from "./library_support.mjs";

const { url, admin, pid, secret, seed, steps = 900 } = JSON.parse(process.env.SEAWALL);
const HISTORY = ["open:a", "open:b", "token:c"];
const CHANNELS = [...HISTORY, "short:d"];
const SERVER_CHANNEL = "server:e";
const CONVERGED_MS = 20_000;

let state = seed;
function random() {
  // mulberry32
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}
const below = (count) => Math.floor(random() * count);
const pick = (list) => list[below(list.length)];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const broken = [];
const check = (holds, text) => holds || broken.push(text);
process.on("unhandledRejection", (error) => broken.push(`unhandled: ${error?.stack ?? error}`));

function token(claims, ttlS) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const nowS = Math.floor(Date.now() / 1000);
  const payload = { ...claims, iat: nowS, exp: nowS + ttlS };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(payload)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const init = { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(`${admin}${path}`, init);
  assert.ok(response.ok, `${path}: ${response.status} ${await response.text()}`);
}

/** A line to the server that can be cut, fall silent, and reject connections. */
class Line {
  #pairs = new Set();
  isSilent = false;
  /** Instead of a connection: `reset`, or a status. */
  rejection = null;

  async open() {
    const { hostname, port } = new URL(url);
    this.server = net.createServer((near) => {
      near.on("error", () => {});
      if (this.rejection === "reset") return near.destroy();
      if (this.rejection) {
        return near.once("data", () => near.end(`HTTP/1.1 ${this.rejection} No\r\n\r\n`));
      }
      const far = net.connect(Number(port), hostname);
      const pair = { near, far };
      this.#pairs.add(pair);
      near.on("data", (data) => far.write(data));
      far.on("data", (data) => this.isSilent || near.write(data));
      for (const end of [near, far]) {
        end.on("error", () => {});
        end.on("close", () => {
          near.destroy();
          far.destroy();
          this.#pairs.delete(pair);
        });
      }
    });
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `ws://127.0.0.1:${this.server.address().port}/ws`;
    return this;
  }

  cut() {
    // What was lost in silence stays lost: no connection continues after it.
    this.#pairs.forEach(({ near, far }) => {
      near.destroy();
      far.destroy();
    });
    this.isSilent = false;
  }

  heal() {
    this.rejection = null;
    if (this.isSilent) this.cut();
  }

  close() {
    this.cut();
    this.server.close();
  }
}

const log = new Map(CHANNELS.concat(SERVER_CHANNEL).map((name) => [name, []]));
const publishes = [];
const handles = [];

/** Records what a handle gets, and checks what can be checked at once. */
function follow(owner, handle, since) {
  const entry = { owner, handle, events: [], since, isOver: false, firstId: publishes.length };
  handles.push(entry);
  for (const event of ["subscribed", "message", "gap"]) {
    handle.on(event, (value) => entry.events.push({ event, ...value }));
  }
  handle.on("unsubscribed", ({ reason }) => {
    entry.isOver = true;
    const isAllowed = entry.wasAsked || owner.isClosed || handle.channel === SERVER_CHANNEL
      || (reason === "by the server" && owner.takenBack.has(handle.channel));
    check(isAllowed, `${owner.name} ${handle.channel} ended: ${reason}`);
  });
}

async function makeClient(index) {
  const line = await new Line().open();
  const owner = { name: `user${index}`, line, aheadMs: 0, takenBack: new Set(), isDone: false, isClosed: false };
  const trouble = () => {
    if (owner.isDone || random() > 0.15) return;
    if (random() < 0.5) throw new Error("the token source is down");
    return new Promise(() => {});
  };
  // The first has no token, and is another client whenever it cannot resume.
  const connectionToken = async () => {
    await trouble();
    return token({ sub: owner.name }, 3 + below(5));
  };
  owner.channelToken = async () => {
    await trouble();
    return token({ channel: "token:*" }, 3 + below(3));
  };
  owner.client = new Seawall(line.url, {
    WebSocket: ws,
    token: index === 0 ? undefined : connectionToken,
    minDelayMs: 10,
    maxDelayMs: 200,
    pingIntervalMs: 300,
    pongTimeoutMs: 400,
    requestTimeoutMs: 1500,
    publishTimeoutMs: 6000,
    queueMax: 1000,
    random,
    clock: { wall: () => Date.now() + owner.aheadMs },
  });
  owner.client.on("subscription", (handle) => follow(owner, handle, handle.position));
  owner.client.on("state", ({ state: now, error }) => {
    if (now === "closed") check(owner.isClosed, `${owner.name} closed: ${error?.message}`);
  });
  owner.client.connect();
  return owner;
}

function subscribe(owner) {
  const channel = pick(CHANNELS);
  const options = { presence: random() < 0.3 };
  if (channel.startsWith("token:")) options.token = owner.channelToken;
  const seen = log.get(channel);
  // From somewhere in what is known, where nothing is forgotten.
  if (HISTORY.includes(channel) && seen.length && random() < 0.3) {
    const { epoch, offset } = pick(seen);
    options.since = { epoch, offset };
  }
  follow(owner, owner.client.subscribe(channel, options), options.since ?? null);
}

function unsubscribe(owner) {
  const entry = pick(handles.filter((one) => one.owner === owner && !one.isOver));
  if (!entry) return;
  entry.wasAsked = true;
  entry.handle.unsubscribe();
}

function publish(owner) {
  const channel = pick(CHANNELS.filter((name) => !name.startsWith("token:")));
  const entry = { owner, channel, id: publishes.length, isQuiet: random() < 0.4, outcome: null };
  publishes.push(entry);
  owner.client.publish(channel, { id: entry.id }, { echo: !entry.isQuiet }).then(
    (position) => { entry.outcome = { position }; },
    (error) => { entry.outcome = { error }; });
}

const backendPublish = (channel) => post("/v1/publish", { channel, content: { id: null } });

/** One random act, with its weight. */
const ACTS = [
  [40, publish],
  [8, subscribe],
  [6, unsubscribe],
  [6, ({ line }) => line.cut()],
  [3, ({ line }) => { line.isSilent = true; }],
  [3, ({ line }) => { line.rejection = pick(["reset", "403", "404", "503"]); }],
  [8, ({ line }) => line.heal()],
  [3, (owner) => { owner.aheadMs = pick([0, 3_600_000, -3_600_000]); }],
  [1, () => process.kill(pid, "SIGHUP")],
  [10, () => backendPublish(pick([...CHANNELS, SERVER_CHANNEL]))],
  [3, ({ name }) => post("/v1/subscribe", { user: name, channel: SERVER_CHANNEL })],
  [1, ({ name }) => post("/v1/unsubscribe", { user: name, channel: SERVER_CHANNEL })],
  [2, (owner) => {
    const channel = pick(HISTORY);
    if (channel.startsWith("open:")) {
      return post("/v1/subscribe", { user: owner.name, channel });
    }
    owner.takenBack.add(channel);
    return post("/v1/unsubscribe", { user: owner.name, channel });
  }],
  [1, ({ name }) => post("/v1/disconnect", { user: name, code: 4000, reason: "moved" })],
  [2, ({ client }) => client.reconnect()],
  // The answer is lost, and so is the ticket: an anonymous client is another one afterwards.
  [2, async (owner) => {
    owner.line.isSilent = true;
    publish(owner);
    await pause(20);
    const { connection } = owner.client;
    if (connection) await post("/v1/disconnect", { connection, code: 4000, reason: "moved" });
    owner.line.cut();
  }],
];
const WEIGHT = ACTS.reduce((sum, [weight]) => sum + weight, 0);

async function act(owner) {
  let at = random() * WEIGHT;
  const [, call] = ACTS.find(([weight]) => (at -= weight) < 0);
  await call(owner);
}

/** Waits until it holds; what does not hold in time is broken. */
async function converge(what, holds) {
  const end = performance.now() + CONVERGED_MS;
  while (!holds()) {
    if (performance.now() > end) return check(false, `no convergence: ${what()}`);
    await pause(10);
  }
}

/** Law 1: what a handle got, compared with the log. */
function checkHandle({ owner, handle, events, since, isOver, firstId }) {
  const { channel } = handle;
  const truth = log.get(channel);
  const name = `${owner.name} ${channel}`;
  let at = since?.offset ?? null;
  const isOwnQuiet = ({ content: { id } }) =>
    id !== null && publishes[id].isQuiet && publishes[id].owner === owner;
  // A handle that starts in the past may get what was published without echo before it was made.
  const isAllowed = (one) => !isOwnQuiet(one) || one.content.id < firstId;
  const needed = () => truth.find((one) => one.offset > at && !isOwnQuiet(one))?.offset ?? Infinity;
  for (const { event, offset, content, from, to } of events) {
    if (event === "subscribed") at ??= offset;
    if (event === "gap") {
      check(channel === "short:d" || channel === SERVER_CHANNEL, `${name}: a gap without cause`);
      check(from.offset < needed(), `${name}: gap from ${from.offset} after ${at}`);
      at = to.offset;
    }
    if (event !== "message") continue;
    const one = truth.find((known) => known.offset === offset);
    check(offset > at && offset <= needed(), `${name}: ${offset} after ${at}, not ${needed()}`);
    check(one && isAllowed(one), `${name}: ${offset} is its own, without echo`);
    check(one?.content.id === content.id, `${name}: another content at ${offset}`);
    at = offset;
  }
  const isWhole = isOver || at === null || needed() === Infinity;
  check(isWhole, `${name}: ${needed()} is missing at the end, after ${at}`);
}

/** Law 2. */
function checkPublish({ owner, channel, id, outcome }) {
  const found = log.get(channel).filter(({ content }) => content.id === id);
  const name = `publish ${id} of ${owner.name} in ${channel}`;
  check(found.length <= 1, `${name} is there ${found.length} times`);
  if (outcome === null) return check(false, `${name} did not settle`);
  const { position, error } = outcome;
  if (position) return check(found[0]?.offset === position.offset, `${name} is not where it says`);
  check(["timeout", "disconnected"].includes(error.code), `${name}: ${error.message}`);
  if (error.message.startsWith("not published")) check(!found.length, `${name} was published`);
}

const recorder = new Seawall(url, { WebSocket: ws, token: () => token({ sub: "recorder" }, 3600) });
await recorder.connect();
for (const channel of CHANNELS) {
  const wanted = channel.startsWith("token:") ? token({ channel: "token:*" }, 3600) : undefined;
  const handle = recorder.subscribe(channel, { token: wanted });
  handle.on("message", (message) => log.get(channel).push(message));
  handle.on("gap", () => check(false, `the recorder lost messages of ${channel}`));
  await handle.ready;
}
recorder.on("subscription", (handle) => {
  handle.on("message", (message) => log.get(SERVER_CHANNEL).push(message));
});
await post("/v1/subscribe", { user: "recorder", channel: SERVER_CHANNEL });

const owners = await Promise.all([0, 1, 2, 3].map(makeClient));
for (let step = 0; step < steps; step += 1) {
  await act(pick(owners));
  if (random() < 0.6) await pause(below(30));
}

// No more faults: all requests must take effect.
for (const owner of owners) {
  owner.isDone = true;
  owner.line.heal();
}
await converge(() => `states ${owners.map(({ client }) => client.state)}`,
  () => owners.every(({ client }) => client.state === "open"));
const unsettled = () => publishes.filter(({ outcome }) => outcome === null);
await converge(() => `${unsettled().length} publishes`, () => !unsettled().length);
for (const channel of log.keys()) await backendPublish(channel);
const behind = () => handles.filter(({ handle, isOver }) => !isOver
  && !(handle.live && handle.position.offset === log.get(handle.channel).at(-1)?.offset));
const where = ({ owner, handle }) =>
  `${owner.name} ${handle.channel} ${handle.live} ${JSON.stringify(handle.position)}`;
await converge(() => behind().map(where).join(", "), () => !behind().length);

handles.forEach(checkHandle);
publishes.forEach(checkPublish);
for (const channel of CHANNELS) {
  const offsets = log.get(channel).map(({ offset }) => offset);
  check(offsets.every((offset, at) => offset === at + 1), `the log of ${channel} has holes`);
}
for (const owner of owners) {
  owner.isClosed = true;
  owner.client.close();
  owner.line.close();
}
recorder.close();
const counts = { publishes: publishes.length, handles: handles.length };
counts.delivered = handles.flatMap(({ events }) => events).length;
counts.uncertain = publishes.filter(({ outcome }) => outcome?.error).length;
console.log(`seed ${seed}: ${JSON.stringify(counts)}`);
check(counts.delivered > steps / 4, "too little happened");
if (broken.length) {
  console.log([...new Set(broken)].slice(0, 20).join("\n"));
  process.exit(1);
}
console.log("all passed");
process.exit(0);
