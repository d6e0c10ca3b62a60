// The client library against the hub in memory, which fails on demand. Run with `node --test`; the
// packages lie in .cache/node (scripts/check.sh --install).
//
// What belongs here: every promise of the library that a server can put to the test. Timing is the
// library's own clock where it matters, so no test waits for a delay or asserts one.

import assert from "node:assert/strict";
import { once } from "node:events";
import { afterEach, beforeEach, test } from "node:test";
import { Worker } from "node:worker_threads";
import { Seawall, SeawallError } from "../../src/web/seawall.js";
import {
  Clock, FAST, contents, next, packages, range, record, state, until, ws,
} from "./library_support.mjs";
import { MockHub } from "./mock_hub.mjs";

let hub;
let clients;

beforeEach(async () => {
  clients = [];
  hub = await MockHub.start(ws);
});

afterEach(async () => {
  clients.forEach((one) => one.close());
  await hub.stop();
});

function client(options = {}) {
  const sw = new Seawall(hub.url, { ...FAST, ...options });
  clients.push(sw);
  return sw;
}

test("publishes, receives, asks, and ends", async () => {
  const [one, two] = [client({ token: "ann" }), client()];
  const states = [];
  one.on("state", (change) => states.push(change.state));
  await Promise.all([one.connect(), two.connect()]);
  assert.equal(hub.lastProtocol, "seawall.v1");
  assert.equal(one.user, "ann");
  const watched = two.subscribe("chat:a", { presence: true });
  const received = record(watched);
  assert.equal((await watched.ready).offset, 0);
  const sub = one.subscribe("chat:a");
  await sub.ready;
  const first = await sub.publish({ text: "grüße\n" });
  assert.deepEqual(first, { channel: "chat:a", epoch: sub.position.epoch, offset: 1 });
  assert.deepEqual(sub.position, { epoch: first.epoch, offset: 1 });
  await two.publish("chat:a", 2);
  await until(() => contents(received).length === 2);
  assert.deepEqual(contents(received), [{ text: "grüße\n" }, 2]);
  assert.deepEqual(received[1], { event: "join", channel: "chat:a",
    member: { user: "ann", connection: one.connection, info: { name: "ann" } } });
  assert.equal((await sub.presence({ limit: 1 })).members.length, 1);
  const { messages } = await sub.history({ limit: 1, reverse: true });
  assert.deepEqual(messages.map((message) => message.content), [2]);
  assert.ok(await one.ping() >= 0);
  hub.last.send({ type: "message", content: "to all" });
  await next(two, "message", ({ content }) => content === "to all");
  await sub.unsubscribe();
  await until(() => received.some((entry) => entry.event === "leave"));
  await assert.rejects(sub.publish(undefined), { name: "SeawallError", code: "bad_request" });
  one.close();
  assert.deepEqual(states, ["connecting", "open", "closed"]);
  await assert.rejects(one.publish("chat:a", 1), { code: "closed" });
  await one.connect();
  assert.equal((await one.publish("chat:a", 3)).offset, 3, "it can be opened again");
});

test("a sender without echo misses nothing and sees nothing twice", async () => {
  const [one, two] = [client(), client()];
  await Promise.all([one.connect(), two.connect()]);
  const sub = one.subscribe("a");
  const received = record(sub);
  await sub.ready;
  for (const n of range(1, 3)) {
    await sub.publish(`own ${n}`, { echo: false });
    await two.publish("a", n);
  }
  await until(() => contents(received).length === 3);
  assert.deepEqual(contents(received), [1, 2, 3]);
  assert.equal(received.filter(({ event }) => event === "subscribed").length, 1, "no false gap");
  await sub.publish("last", { echo: false });
  assert.equal(sub.position.offset, 7);
});

/** A script of everything, with a fault at one object: nothing lost, doubled or reordered. */
async function exchange(fault, tokens) {
  const backend = "chat:a";
  hub.grants = true;
  let seen = 0;
  hub.fault = null;
  const sw = client({ token: tokens });
  const sub = sw.subscribe(backend);
  const received = record(sub);
  let armed = true;
  hub.fault = (direction, object) => {
    seen += 1;
    const found = armed && fault(seen, direction, object);
    if (found) armed = false;
    return found || undefined;
  };
  sw.connect();
  await sub.ready;
  const published = [];
  for (const n of range(1, 6)) {
    hub.publish(backend, `server ${n}`);
    published.push(sw.publish(backend, `client ${n}`));
    // The next is published while the last is still on its way, every other time.
    if (n % 2 === 0) await published.at(-1);
  }
  const positions = await Promise.all(published);
  hub.fault = null;
  const end = hub.publish(backend, "end");
  await until(() => contents(received).includes("end"));
  const log = hub.channel(backend).history;
  const from = received[0].offset;
  const expected = log.filter((message) => message.offset > from).map((one) => one.content);
  assert.deepEqual(contents(received), expected, `after object ${seen}`);
  const offsets = positions.map((one) => one.offset);
  assert.deepEqual(offsets, [...offsets].sort((a, b) => a - b), "publishes keep their order");
  assert.equal(log.length, 13, "each publish is in the log once");
  assert.equal(end.offset, 13);
  assert.deepEqual(received.filter(({ event }) => event === "gap"), []);
  const happened = seen;
  sw.close();
  hub.channels.clear();
  return { happened, fired: !armed };
}

for (const tokens of [undefined, () => Promise.resolve("ann")]) {
  for (const fault of ["cut", "cut after"]) {
    test(`${fault} at every point, ${tokens ? "with" : "without"} token`, async () => {
      let points = 0;
      for (let at = 1; ; at += 1) {
        const { fired } = await exchange((seen) => seen === at && fault, tokens);
        if (!fired) break;
        points += 1;
      }
      assert.ok(points > 25, `${points} points`);
    });
  }
}

for (const fault of ["skip", "twice"]) {
  test(`every message once with ${fault}`, async () => {
    for (let at = 1; ; at += 1) {
      let count = 0;
      const { fired } = await exchange(
        (_, __, { type }) => type === "message" && ++count === at && at < 12 && fault, undefined);
      if (!fired) {
        assert.equal(at, 12, "each was tried");
        break;
      }
    }
  });
}

test("two clients that publish under faults all the time agree", async () => {
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  hub.fault = (direction, object) => {
    if (random() < 0.03) return "cut";
    if (object.type !== "message") return undefined;
    return random() < 0.05 ? "skip" : random() < 0.05 ? "twice" : undefined;
  };
  const subs = [1, 2].map(() => {
    const sw = client({ random, queueMax: 1000 });
    sw.connect();
    return sw.subscribe("a");
  });
  const received = subs.map(record);
  await Promise.all(subs.map((sub) => sub.ready));
  const sent = range(1, 100).flatMap((n) => subs.map((sub, who) => sub.publish([who, n])));
  await Promise.all(sent);
  hub.fault = null;
  hub.publish("a", "end");
  await until(() => received.every((one) => contents(one).includes("end")));
  const log = hub.channel("a").history.map((message) => message.content);
  assert.equal(log.length, 201);
  for (const one of received) {
    const skipped = one[0].offset;
    assert.deepEqual(contents(one), log.slice(skipped));
  }
  assert.deepEqual(log.filter((entry) => entry[0] === 1), range(1, 100).map((n) => [1, n]));
});

test("what cannot be recovered is a gap with its range", async () => {
  hub.historyMax = 3;
  const sw = client();
  await sw.connect();
  const sub = sw.subscribe("a");
  const received = record(sub);
  const { epoch } = await sub.ready;
  hub.publish("a", 1);
  await next(sub, "message");
  const waiting = state(sw, "waiting");
  hub.last.cut();
  await waiting;
  range(2, 8).forEach((n) => hub.publish("a", n));
  const gap = await next(sub, "gap");
  assert.deepEqual(gap,
    { channel: "a", from: { epoch, offset: 1 }, to: { epoch, offset: 8 } });
  hub.publish("a", 9);
  await until(() => contents(received).length === 2);
  assert.deepEqual(contents(received), [1, 9]);
  // Another epoch, reported by the server.
  hub.channels.get("a").epoch = "new";
  hub.last.send({ type: "gap", channel: "a", epoch, offset: 9, reason: "epoch" });
  assert.equal((await next(sub, "gap")).to.epoch, "new");
});

test("the start of a channel counts, although its epoch is another one by now", async () => {
  hub.starts.add("start");
  range(1, 3).forEach((n) => hub.publish("a", n));
  const sw = client();
  await sw.connect();
  const sub = sw.subscribe("a", { since: { epoch: "start", offset: 0 } });
  const received = record(sub);
  assert.equal((await sub.ready).recovered, true);
  await until(() => contents(received).length === 3);
  const waiting = state(sw, "waiting");
  hub.last.cut();
  await waiting;
  hub.publish("a", 4);
  await until(() => contents(received).length === 4);
  assert.deepEqual(contents(received), [1, 2, 3, 4]);
  assert.ok(received.every(({ event }) => event !== "gap"));
});

test("a notice of a gap is made good from history", async () => {
  const sw = client();
  await sw.connect();
  const sub = sw.subscribe("a");
  const received = record(sub);
  await sub.ready;
  hub.fault = (_, { type }) => (type === "message" ? "skip" : undefined);
  range(1, 5).forEach((n) => hub.publish("a", n));
  hub.fault = null;
  const { epoch } = hub.channel("a");
  hub.last.send({ type: "gap", channel: "a", epoch, offset: 5, reason: "slow" });
  await until(() => contents(received).length === 5);
  assert.deepEqual(contents(received), [1, 2, 3, 4, 5]);
  assert.ok(received.filter(({ event }) => event === "message").every((one) => one.recovered));
  // A log that does not count by one says what came before.
  hub.channel("a").offset = 9;
  hub.last.send({ type: "message", channel: "a", offset: 9, prev: 5, content: 9 });
  await until(() => contents(received).length === 6);
});

test("resume carries positions and grants; refused, it is done step by step", async () => {
  hub.grants = true;
  const sw = client({ token: () => "ann" });
  await sw.connect();
  const [sub, other] = [sw.subscribe("a", { presence: true }), sw.subscribe("b")];
  const received = record(sub);
  await Promise.all([sub.ready, other.ready]);
  const lose = async () => {
    const [waiting, open] = [state(sw, "waiting"), next(sw, "open")];
    hub.last.cut();
    await waiting;
    hub.publish("a", "missed");
    return open;
  };
  assert.equal((await lose()).resumed, true);
  const { positions } = hub.last.received[0];
  assert.deepEqual(positions.a, { ...sub.position, offset: 0, grant: "grant-a", presence: true });
  assert.deepEqual(hub.last.received.map(({ type }) => type), ["resume"]);

  hub.refusals.set("resume b", "forbidden");
  await lose();
  await next(other, "subscribed");
  assert.deepEqual(hub.last.received.map(({ type }) => type), ["resume", "subscribe"]);

  hub.tickets.clear();
  const back = Promise.all([next(sub, "subscribed"), next(other, "subscribed")]);
  assert.equal((await lose()).resumed, false);
  await back;
  const types = hub.last.received.map(({ type }) => type);
  assert.deepEqual(types, ["resume", "auth", "resume", "subscribe"], "grants count with a fresh ticket");
  assert.deepEqual(hub.last.received[2].positions.a.offset, 2);
  await until(() => contents(received).length === 3);
  assert.deepEqual(sub.position.offset, 3);
});

test("a subscription begins at the given position", async () => {
  range(1, 4).forEach((n) => hub.publish("a", n));
  const { epoch } = hub.channel("a");
  const sw = client();
  sw.connect();
  const sub = sw.subscribe("a", { since: { epoch, offset: 2 } });
  const found = [];
  for await (const { content } of sub) {
    found.push(content);
    if (content === 4) break;
  }
  assert.deepEqual(found, [3, 4]);
  const rest = (async () => { for await (const one of sub) found.push(one.content); })();
  hub.publish("a", 5);
  await until(() => found.length === 3);
  await sub.unsubscribe();
  await rest;
  const lost = sw.subscribe("b", { since: { epoch: "gone", offset: 7 } });
  assert.equal((await next(lost, "gap")).from.offset, 7);
});

test("refusals and the server's own word on subscriptions", async () => {
  const sw = client();
  await sw.connect();
  hub.refusals.set("subscribe secret", "forbidden");
  const secret = sw.subscribe("secret");
  const failed = next(secret, "error");
  await assert.rejects(secret.ready, (error) => error instanceof SeawallError);
  assert.equal((await failed).code, "forbidden");
  hub.refusals.set("publish a", "rate_limited");
  await assert.rejects(sw.publish("a", 1), { code: "rate_limited" });
  const given = next(sw, "subscription");
  const { reply } = hub.last.join("news");
  hub.last.send({ type: "subscribed", ...reply });
  const news = await given;
  const message = next(news, "message");
  hub.publish("news", "x");
  assert.equal((await message).content, "x");
  const ended = next(news, "unsubscribed");
  hub.last.send({ type: "unsubscribed", channel: "news" });
  await ended;
  hub.refusals.set("subscribe busy", "rate_limited");
  const busy = sw.subscribe("busy");
  await until(() => hub.last.received.filter(({ channel }) => channel === "busy").length > 2);
  hub.refusals.clear();
  await busy.ready;
  hub.channelTokens = true;
  const given2 = ["old", "good"];
  await sw.subscribe("own", { token: async () => given2.shift() }).ready;
  assert.deepEqual(given2, []);
});

test("what is published while offline waits, up to a bound", async () => {
  const sw = client({ queueMax: 3 });
  const sent = range(1, 3).map((n) => sw.publish("a", n));
  await assert.rejects(sw.publish("a", 4), { code: "limit" });
  await sw.connect();
  assert.deepEqual((await Promise.all(sent)).map(({ offset }) => offset), [1, 2, 3]);
  await assert.rejects(sw.publish("a", "x".repeat(70_000)), { code: "too_large" });
  assert.equal((await sw.publish("a", 5)).offset, 4);
  sw.close();
  const never = client();
  const waiting = never.publish("a", 1);
  never.connect();
  never.close();
  await assert.rejects(waiting, { code: "closed" });
});

test("a repeated publish takes effect once, and is reported as a repeat", async () => {
  const sw = client();
  await sw.connect();
  let cut = false;
  hub.fault = (direction, { type }) => (!cut && type === "published" && (cut = true) && "cut");
  const { duplicate, offset } = await sw.publish("a", 1);
  assert.deepEqual([duplicate, offset, hub.channel("a").history.length], [true, 1, 1]);
});

test("close codes decide what follows", async () => {
  for (const [code, error] of [[4401, "unauthorized"], [4403, "forbidden"], [4409, "conflict"]]) {
    const sw = client();
    await sw.connect();
    const sub = sw.subscribe("a");
    await sub.ready;
    const [closed, received] = [state(sw, "closed"), next(sub, "error")];
    hub.last.close(code, "no");
    assert.equal((await closed).error.code, error);
    assert.equal((await received).code, error);
  }
  const tokenless = client();
  await tokenless.connect();
  const ended = state(tokenless, "closed");
  hub.last.close(4408, "no token");
  const { error } = await ended;
  assert.equal(error.code, "unauthorized");
  assert.match(error.remedy, /`token`/);
  for (const code of [1001, 1006, 1011, 1013, 4408, 4413, 4429]) {
    const sw = client({ token: "ann" });
    await sw.connect();
    const open = next(sw, "open");
    if (code === 1006) hub.last.cut();
    else hub.last.close(code);
    await open;
    sw.close();
  }
});

test("an expired token is fetched again once", async () => {
  const tokens = ["ann", "old", "ann", "old", "old", "ann"];
  const sw = client({ token: () => tokens.shift() });
  await sw.connect();
  const open = next(sw, "open");
  hub.tickets.clear();
  hub.last.cut();
  await open;
  assert.deepEqual(tokens, ["old", "old", "ann"], "refused once, then good");
  const closed = state(sw, "closed");
  hub.last.close(4410);
  assert.equal((await closed).error.code, "expired");
  assert.deepEqual(tokens, ["old", "ann"], "one more was tried");
  const fixed = client({ token: "old" });
  await assert.rejects(fixed.connect(), { code: "expired" });
  await assert.rejects(client({ token: "bad" }).connect(), { code: "unauthorized" });
});

test("delays grow, are spread over all their range, and obey the server", async () => {
  const clock = new Clock();
  let drawn = 0.5;
  const options = { clock, random: () => drawn, minDelayMs: 300, maxDelayMs: 30_000 };
  const sw = client(options);
  const opened = sw.connect();
  await opened;
  const lose = async (how) => {
    const waiting = state(sw, "waiting");
    how(hub.last);
    const { delayMs } = await waiting;
    const open = next(sw, "open");
    clock.pass(delayMs);
    await open;
    return delayMs;
  };
  const delays = [];
  for (let n = 0; n < 9; n += 1) delays.push(await lose((one) => one.cut()));
  assert.deepEqual(delays, [150, 300, 600, 1200, 2400, 4800, 9600, 15_000, 15_000]);
  clock.pass(6000);
  drawn = 0;
  assert.equal(await lose((one) => one.cut()), 0, "it had held: from the start, and any fraction");
  clock.pass(6000);
  drawn = 0.5;
  assert.equal(await lose((one) => one.close(4429)), 1800, "calm: at least half, from further on");
  const goodbye = (one) => {
    one.send({ type: "goodbye", code: 1001, reason: "drain", retry_after_ms: 42_000 });
    one.close(1001);
  };
  assert.equal(await lose(goodbye), 42_000);
  sw.reconnect({ afterMs: 777 });
  assert.ok([...clock.timers.values()].some(({ ms }) => ms === 777));
  const open = next(sw, "open");
  sw.reconnect();
  clock.pass(0);
  await open;
});

test("silence is found out by the library's own pings", async () => {
  const clock = new Clock();
  hub.heartbeatS = 20;
  const delays = { minDelayMs: 300, maxDelayMs: 30_000 };
  const sw = client({ ...delays, clock, random: () => 0.5, pongTimeoutMs: 5000 });
  await sw.connect();
  for (let n = 0; n < 3; n += 1) {
    clock.pass(20_000);
    await until(() => hub.last.received.filter(({ type }) => type === "ping").length === n + 1);
    await until(() => ![...clock.timers.values()].some(({ ms }) => ms === 5000));
  }
  assert.equal(sw.state, "open");
  hub.fault = () => "silent";
  clock.pass(20_000);
  await until(() => hub.last.silent);
  clock.pass(4999);
  assert.equal(sw.state, "open");
  clock.pass(1);
  assert.equal(sw.state, "waiting");
  hub.fault = null;
  const open = next(sw, "open");
  clock.pass(150);
  await open;
  // No welcome at all.
  hub.fault = () => "silent";
  hub.last.cut();
  await state(sw, "waiting");
  clock.pass(300);
  assert.equal(sw.state, "connecting");
  await until(() => hub.last.silent);
  clock.pass(10_000);
  assert.equal(sw.state, "waiting");
});

test("tokens are refreshed in time, on the same connection", async () => {
  const clock = new Clock();
  let fetched = 0;
  hub.heartbeatS = 1000;
  const sw = client({ clock, token: async () => `ann:${(fetched += 1) * 100}` });
  await sw.connect();
  assert.equal(fetched, 1);
  clock.pass(79_999);
  assert.equal(fetched, 1);
  const auths = () => hub.last.received.filter(({ type }) => type === "auth").length;
  clock.pass(1);
  await until(() => auths() === 2);
  await sw.ping();
  assert.equal(hub.accepted.length, 1);
  hub.refusals.set("auth", "conflict");
  const error = next(sw, "error");
  clock.pass(160_000);
  assert.match((await error).message, /not refreshed/);
  assert.equal(sw.state, "open");
});

test("one frame may hold several objects", async () => {
  const sw = client();
  await sw.connect();
  const sub = sw.subscribe("a");
  const received = record(sub);
  await sub.ready;
  hub.last.together(() => range(1, 5).forEach((n) => hub.publish("a", `line\n${n}`)));
  await until(() => contents(received).length === 5);
  hub.last.socket.send("no JSON");
  await next(sw, "open");
});

test("the browser's word on the network is heard", async () => {
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  globalThis.removeEventListener = target.removeEventListener.bind(target);
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  try {
    const clock = new Clock();
    const sw = client({ clock, random: () => 0.5, minDelayMs: 1000, maxDelayMs: 30_000 });
    await sw.connect();
    const pings = () => hub.last.received.filter(({ type }) => type === "ping").length;
    globalThis.document.dispatchEvent(new Event("visibilitychange"));
    await until(() => pings() === 1);
    await sw.ping();
    target.dispatchEvent(new Event("offline"));
    await until(() => pings() === 3);
    // The server is away: each event brings one attempt, later and later.
    hub.fault = () => "cut";
    hub.last.cut();
    await state(sw, "waiting");
    const delays = [];
    for (const event of [new Event("online"), null, new Event("online"), null]) {
      const before = new Set(clock.timers.keys());
      if (event) target.dispatchEvent(event);
      else globalThis.document.dispatchEvent(new Event("visibilitychange"));
      target.dispatchEvent(new Event("online"));
      const added = [...clock.timers].filter(([timer]) => !before.has(timer));
      assert.equal(added.length, 1, "many events are one attempt");
      delays.push(added[0][1].ms);
      const waiting = state(sw, "waiting");
      clock.pass(added[0][1].ms);
      await waiting;
    }
    assert.deepEqual(delays, [500, 1000, 2000, 4000]);
    hub.fault = null;
    target.dispatchEvent(new Event("online"));
    const open = next(sw, "open");
    clock.pass(8000);
    await open;
    // What the server or the application asked for is waited for.
    hub.last.send({ type: "goodbye", code: 1001, reason: "drain", retry_after_ms: 42_000 });
    hub.last.close(1001);
    await state(sw, "waiting");
    const timers = clock.timers.size;
    target.dispatchEvent(new Event("online"));
    assert.equal(clock.timers.size, timers);
    sw.close();
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
    delete globalThis.document;
  }
});

test("a listener that throws disturbs nothing", async () => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  try {
    const sw = client();
    await sw.connect();
    const sub = sw.subscribe("a");
    const seen = [];
    sub.once("message", () => { throw new Error("mine"); });
    sub.on("message", ({ content }) => seen.push(content));
    await sub.publish(1);
    await sub.publish(2);
    await until(() => seen.length === 2);
    assert.deepEqual(reported, ["mine"]);
  } finally {
    delete globalThis.reportError;
  }
});

test("it runs in a worker", async () => {
  const worker = new Worker(`
    const { parentPort, workerData } = require("node:worker_threads");
    const WebSocket = require("node:module").createRequire(workerData.packages)("ws");
    import(workerData.library).then(async ({ Seawall }) => {
      const sw = new Seawall(workerData.url, { WebSocket });
      await sw.connect();
      const sub = sw.subscribe("a");
      sub.on("message", ({ content }) => parentPort.postMessage(content));
      await sub.ready;
      await sub.publish("from a worker");
      sw.close();
    });`, {
    eval: true,
    workerData: {
      url: hub.url, packages: packages.href,
      library: new URL("../../src/web/seawall.js", import.meta.url).href,
    },
  });
  const [message] = await once(worker, "message");
  assert.equal(message, "from a worker");
  await once(worker, "exit");
});
