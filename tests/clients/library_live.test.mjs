// The client library against a running server:
//
//     SEAWALL_URL=ws://127.0.0.1:9000/ws node --test tests/clients/library_live.test.mjs
//
// What belongs here: what a hub in memory may have understood differently from the real one. The
// server must take anonymous clients, and keep some history for channels named `chat:*`.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, test } from "node:test";
import { Seawall } from "../../src/web/seawall.js";

const url = process.env.SEAWALL_URL;
const skip = url ? false : "SEAWALL_URL names no server";
const packages = new URL("../../.cache/node/", import.meta.url);
const WebSocket = createRequire(packages)("ws");
const clients = [];
let channels = 0;

after(() => clients.forEach((one) => one.close()));

/** A connection that can be cut without a word. */
async function open() {
  let socket;
  class Cuttable extends WebSocket {
    constructor(...given) {
      super(...given);
      socket = this;
    }
  }
  const sw = new Seawall(url, { WebSocket: Cuttable, minDelayMs: 100, maxDelayMs: 200 });
  sw.cut = () => socket.terminate();
  clients.push(sw);
  await sw.connect();
  return sw;
}

const fresh = () => `chat:live-${process.pid}-${Date.now()}-${channels += 1}`;

const next = (source, event) => new Promise((resolve) => source.once(event, resolve));

async function until(holds) {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const range = (count) => Array.from({ length: count }, (_, n) => n);

test("publish and subscribe", { skip }, async () => {
  const [one, two] = [await open(), await open()];
  const channel = fresh();
  const [sub, other] = [one.subscribe(channel), two.subscribe(channel)];
  await Promise.all([sub.ready, other.ready]);
  const found = [[], []];
  sub.on("message", (message) => found[0].push(message));
  other.on("message", (message) => found[1].push(message));
  const content = { text: "grüße\r\n\u2028 🦭", n: [1.5e300, null, true], nested: { a: {} } };
  const { epoch, offset } = await sub.publish(content);
  await until(() => found.every((one) => one.length === 1));
  for (const [message] of found) {
    assert.deepEqual(message.content, content);
    assert.deepEqual([message.epoch, message.offset], [epoch, offset]);
    assert.equal(message.from.connection, one.connection);
    assert.ok(message.time > 1.7e12);
  }
  await sub.publish("quiet", { echo: false });
  await other.publish("loud");
  await until(() => found[0].length === 2 && found[1].length === 3);
  assert.equal(found[0][1].content, "loud");
  await sub.unsubscribe();
  await other.publish("unheard");
  await one.ping();
  assert.equal(found[0].length, 2);
});

test("a key makes one of two", { skip }, async () => {
  const sw = await open();
  const channel = fresh();
  const first = await sw.publish(channel, 1, { key: "k" });
  const second = await sw.publish(channel, 1, { key: "k" });
  assert.deepEqual([second.offset, second.duplicate], [first.offset, true]);
  await assert.rejects(sw.publish(channel, 2, { key: "k" }), { code: "conflict" });
});

test("presence and history", { skip }, async () => {
  const [one, two] = [await open(), await open()];
  const channel = fresh();
  const sub = one.subscribe(channel, { presence: true });
  await sub.ready;
  const joined = next(sub, "join");
  const other = two.subscribe(channel);
  await other.ready;
  assert.equal((await joined).member.connection, two.connection);
  const { count, members } = await sub.presence();
  assert.equal(count, 2);
  const names = members.map(({ connection }) => connection).sort();
  assert.deepEqual(names, [one.connection, two.connection].sort());
  for (const n of range(5)) await sub.publish(n);
  const { epoch, offset, messages } = await other.history({ limit: 10 });
  assert.deepEqual(messages.map(({ content }) => content), range(5));
  assert.deepEqual({ epoch, offset }, sub.position);
  const left = next(sub, "leave");
  await other.unsubscribe();
  assert.equal((await left).member.connection, two.connection);
});

test("joins and leaves are reported after a cut as well", { skip }, async () => {
  const [one, two] = [await open(), await open()];
  const channel = fresh();
  const sub = one.subscribe(channel, { presence: true });
  await sub.ready;
  const opened = next(one, "open");
  one.cut();
  assert.equal((await opened).resumed, true);
  const joined = next(sub, "join");
  const other = two.subscribe(channel);
  await other.ready;
  assert.equal((await joined).member.connection, two.connection);
  const left = next(sub, "leave");
  await other.unsubscribe();
  assert.equal((await left).member.connection, two.connection);
});

test("a cut loses nothing and doubles nothing", { skip }, async () => {
  const [one, two] = [await open(), await open()];
  const channel = fresh();
  const sub = one.subscribe(channel);
  await sub.ready;
  const found = [];
  const gaps = [];
  sub.on("message", ({ content }) => found.push(content));
  sub.on("gap", (gap) => gaps.push(gap));
  let sent = 0;
  for (let round = 0; round < 10; round += 1) {
    const opened = next(one, "open");
    await two.publish(channel, sent++);
    one.cut();
    await Promise.all(range(5).map(() => two.publish(channel, sent++)));
    // Published while away, it waits for the connection.
    const own = one.publish(channel, sent++);
    assert.equal((await opened).resumed, true);
    await own;
  }
  await until(() => found.length === sent);
  assert.deepEqual(found, range(sent));
  assert.deepEqual(gaps, []);
});

test("without its ticket it finds its place as well", { skip }, async () => {
  const [one, two] = [await open(), await open()];
  const channel = fresh();
  const sub = one.subscribe(channel);
  await sub.ready;
  for (const n of range(3)) await two.publish(channel, n);
  await until(() => sub.position.offset === 3);
  const late = (await open()).subscribe(channel, { since: { ...sub.position, offset: 1 } });
  const found = [];
  late.on("message", ({ content }) => found.push(content));
  assert.equal((await late.ready).recovered, true);
  await until(() => found.length === 2);
  assert.deepEqual(found, [1, 2]);
  const lost = (await open()).subscribe(channel, { since: { epoch: "other", offset: 1 } });
  assert.equal((await next(lost, "gap")).to.offset, 3);
});

test("two publish at once and see the same", { skip }, async () => {
  const pair = [await open(), await open()];
  const channel = fresh();
  const subs = pair.map((sw) => sw.subscribe(channel));
  await Promise.all(subs.map((sub) => sub.ready));
  const found = [[], []];
  subs.forEach((sub, who) => sub.on("message", ({ content }) => found[who].push(content)));
  await Promise.all(range(200).map((n) => subs[n % 2].publish(n)));
  await until(() => found.every((one) => one.length === 200));
  assert.deepEqual(found[0], found[1]);
});
