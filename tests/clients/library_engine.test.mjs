// The client library where the engine of a cluster goes away: notices, requests that are answered
// with `unavailable`, and joins and leaves that are repeated. The hub is in memory.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Seawall } from "../../src/web/seawall.js";
import { Clock, FAST, contents, next, record, until, ws } from "./library_support.mjs";
import { MockHub } from "./mock_hub.mjs";

const UNAVAILABLE = { code: "unavailable", message: "the engine is away", retry_after_ms: 500 };

let hub;
let clients;

beforeEach(async () => {
  clients = [];
  hub = await MockHub.start(ws);
  hub.heartbeatS = 0;
});

afterEach(async () => {
  clients.forEach((one) => one.close());
  await hub.stop();
});

async function open(options = {}) {
  const sw = new Seawall(hub.url, { ...FAST, random: () => 0, ...options });
  sw.engines = [];
  sw.on("engine", ({ state }) => sw.engines.push([state, sw.engine]));
  clients.push(sw);
  await sw.connect();
  return sw;
}

const sent = (type) => hub.accepted.flatMap((one) => one.received)
  .filter((one) => one.type === type);

const tell = (state) => hub.last.send({ type: "engine", state });

/** Connections are told that the engine is away right after their welcome. */
function tellAfterWelcome(direction, { type }, connection) {
  if (direction !== "out" || type !== "welcome") return;
  queueMicrotask(() => connection.send({ type: "engine", state: "away" }));
}

test("the state of the engine is an event and a property", async () => {
  const sw = await open();
  assert.equal(sw.engine, "back");
  tell("away");
  tell("away");
  await sw.ping();
  assert.deepEqual(sw.engines, [["away", "away"]]);
  // The next connection is told the same, or nothing: then the engine is back.
  hub.fault = tellAfterWelcome;
  hub.last.cut();
  await next(sw, "open");
  await sw.ping();
  assert.deepEqual([sw.engine, sw.engines.length], ["away", 1]);
  hub.fault = null;
  hub.last.cut();
  await next(sw, "open");
  assert.deepEqual(sw.engines, [["away", "away"], ["back", "back"]]);
});

test("a publish that is unavailable is repeated with its key", async () => {
  const clock = new Clock();
  const sw = await open({ clock });
  const sub = sw.subscribe("a");
  const received = record(sub);
  await sub.ready;
  // It was carried out: the answer was lost.
  let answers = 0;
  hub.fault = (direction, { type, id }, connection) => {
    if (direction !== "out" || type !== "published" || answers === 2) return;
    answers += 1;
    connection.send({ type: "error", id, ...UNAVAILABLE });
    return "skip";
  };
  const published = sw.publish("a", "once");
  await until(() => answers === 1);
  await sw.ping();
  clock.pass(499);
  await sw.ping();
  assert.equal(sent("publish").length, 1, "not before the time that the server names");
  clock.pass(1);
  await until(() => answers === 2);
  await sw.ping();
  clock.pass(500);
  const { offset, duplicate } = await published;
  assert.deepEqual([offset, duplicate], [1, true]);
  const keys = new Set(sent("publish").map(({ key }) => key));
  assert.deepEqual([sent("publish").length, keys.size], [3, 1]);
  assert.deepEqual(contents(received), ["once"]);
});

test("a publish waits for the engine over a new connection", async () => {
  const clock = new Clock();
  const sw = await open({ clock });
  hub.refusals.set("publish a", UNAVAILABLE);
  const published = sw.publish("a", 1);
  await until(() => sent("publish").length === 1);
  await sw.ping();
  hub.refusals.clear();
  hub.last.cut();
  await next(sw, "state");
  clock.pass(4);
  assert.equal((await published).offset, 1);
});

test("a publish that stays unavailable fails when its own time ends", async () => {
  const clock = new Clock();
  const sw = await open({ clock, publishTimeoutMs: 1200 });
  hub.refusals.set("publish a", UNAVAILABLE);
  const failed = assert.rejects(sw.publish("a", 1), ({ code, message }) => {
    assert.match(message, /the engine is away, for 1200 ms: it was published or not/);
    return code === "unavailable";
  });
  for (const count of [1, 2, 3]) {
    await until(() => sent("publish").length === count);
    await sw.ping();
    clock.pass(500);
  }
  await failed;
  const { retryAfterMs } = await sw.history("a").catch((error) => error);
  assert.equal(retryAfterMs, undefined, "other requests are served");
  hub.refusals.set("history a", UNAVAILABLE);
  await assert.rejects(sw.history("a"), { code: "unavailable", retryAfterMs: 500 });
});

test("a subscription that is unavailable is repeated when the server says", async () => {
  const clock = new Clock();
  const sw = await open({ clock });
  hub.refusals.set("subscribe a", UNAVAILABLE);
  const error = next(sw, "error");
  const sub = sw.subscribe("a");
  assert.deepEqual([(await error).code, (await error).retryAfterMs], ["unavailable", 500]);
  for (const count of [2, 3, 4]) {
    clock.pass(499);
    await sw.ping();
    assert.equal(sent("subscribe").length, count - 1);
    clock.pass(1);
    await until(() => sent("subscribe").length === count);
    await sw.ping();
  }
  hub.refusals.clear();
  clock.pass(500);
  await sub.ready;
});

test("a repeated join or leave means nothing", async () => {
  const [sw, ann] = [await open(), await open({ token: "ann" })];
  await ann.subscribe("a").ready;
  const sub = sw.subscribe("a", { presence: true });
  const received = record(sub);
  await sub.ready;
  const watcher = [...hub.channel("a").members].find((one) => one.user === undefined);
  const report = (type, member) => watcher.send({ type, channel: "a", member });
  const [bob, guest] = [{ user: "bob", connection: "c8" }, { connection: "c9" }];
  for (const member of [bob, bob, guest, guest]) report("join", member);
  for (const member of [guest, bob, guest]) report("leave", member);
  // A user is the same on another connection, and a client is not the user of its name.
  for (const member of [{ ...bob, connection: "c7" }, { connection: "bob" }]) report("join", member);
  report("join", { connection: "c10", joined_as: "bob" });
  await sw.ping();
  const news = received.filter(({ event }) => event === "join" || event === "leave");
  const told = news.map(({ event, member }) => `${event} ${member.user ?? member.connection}`);
  assert.deepEqual(told, [
    "join bob", "join c9", "leave c9", "leave bob", "join bob", "join bob",
  ]);
});

test("members on the page are known to be present", async () => {
  hub.fault = (direction, object) => {
    if (direction !== "out" || object.type !== "subscribed") return;
    object.presence = { count: 1, members: [{ user: "ann", connection: "c8" }] };
  };
  const sw = await open();
  const sub = sw.subscribe("a", { presence: true });
  const received = record(sub);
  await sub.ready;
  const report = (type) => {
    hub.last.send({ type, channel: "a", member: { user: "ann", connection: "c8" } });
  };
  ["join", "leave", "leave", "join"].forEach(report);
  hub.last.send({ type: "presence_gap", channel: "a" });
  // It may have left meanwhile.
  report("join");
  await sw.ping();
  assert.deepEqual(received.map(({ event }) => event), [
    "subscribed", "leave", "join", "presenceGap", "join",
  ]);
});
