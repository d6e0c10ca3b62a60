// The client library where things go wrong or meet: several handles of a channel, requests that are
// lost, tokens that end, servers that are away. The hub is in memory and fails on demand.
//
// What belongs here: what happens to the promises, events and positions of an application then.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, afterEach, beforeEach, test } from "node:test";
import { Seawall } from "../../src/web/seawall.js";
import {
  Clock, FAST, contents, next, range, record, state, until, ws,
} from "./library_support.mjs";
import { MockHub } from "./mock_hub.mjs";

let hub;
let clients;
const unhandled = [];
process.on("unhandledRejection", (error) => unhandled.push(error));

beforeEach(async () => {
  clients = [];
  hub = await MockHub.start(ws);
});

afterEach(async () => {
  clients.forEach((one) => one.close());
  await hub.stop();
});

after(() => assert.deepEqual(unhandled, []));

function client(options = {}, url = hub.url) {
  const sw = new Seawall(url, { ...FAST, ...options });
  clients.push(sw);
  return sw;
}

const sent = (type) => hub.last.received.filter((one) => one.type === type);

/** A token as a client sees it: only its times can be read. */
function jwt(iat, exp) {
  return `x.${btoa(JSON.stringify({ iat, exp }))}.x`;
}

// ---- Handles. ----

test("handles of one channel are independent", async () => {
  const sw = client();
  await sw.connect();
  const [one, two] = [sw.subscribe("a"), sw.subscribe("a")];
  const [first, second] = [record(one), record(two)];
  await Promise.all([one.ready, two.ready]);
  assert.equal(sent("subscribe").length, 1, "one subscription on the wire");
  range(1, 3).forEach((n) => hub.publish("a", n));
  await until(() => contents(first).length === 3 && contents(second).length === 3);

  const late = sw.subscribe("a");
  const third = record(late);
  assert.equal((await late.ready).offset, 3);
  const replayed = sw.subscribe("a", { since: { ...one.position, offset: 1 } });
  const fourth = record(replayed);
  assert.equal((await replayed.ready).recovered, true);
  await until(() => contents(fourth).length === 2);
  assert.deepEqual(contents(fourth), [2, 3]);
  const stale = sw.subscribe("a", { since: { epoch: "gone", offset: 1 } });
  assert.deepEqual((await next(stale, "gap")).to, one.position);

  await one.unsubscribe();
  assert.equal(sent("unsubscribe").length, 0);
  assert.deepEqual(first.at(-1), { event: "unsubscribed", channel: "a", reason: "as asked" });
  hub.publish("a", 4);
  await until(() => [second, third, fourth].every((received) => contents(received).at(-1) === 4));
  assert.deepEqual([first, second, third].map(contents), [[1, 2, 3], [1, 2, 3, 4], [4]]);
  assert.deepEqual(contents(fourth), [2, 3, 4]);
  assert.ok([first, second, third, fourth].flat().every(({ event }) => event !== "gap"));

  await Promise.all([two, late, replayed, stale].map((handle) => handle.unsubscribe()));
  assert.equal(sent("unsubscribe").length, 1, "the last one ends it");
  assert.equal(hub.channel("a").members.size, 0);
  await one.unsubscribe();
});

test("a handle may start further than what its client has received", async () => {
  const sw = client();
  await sw.connect();
  const one = sw.subscribe("a");
  const first = record(one);
  await one.ready;
  // On its way to the client, and known to the application from elsewhere.
  const { epoch } = hub.channel("a");
  range(1, 3).forEach((n) => hub.publish("a", n));
  const ahead = sw.subscribe("a", { since: { epoch, offset: 3 } });
  const second = record(ahead);
  await ahead.ready;
  hub.publish("a", 4);
  await until(() => contents(second).includes(4) && contents(first).includes(4));
  assert.deepEqual([contents(first), contents(second)], [[1, 2, 3, 4], [4]]);
  assert.ok([first, second].flat().every(({ event }) => event !== "gap"));
});

test("handles come and go around a cut", async () => {
  const sw = client();
  await sw.connect();
  const [one, two] = [sw.subscribe("a"), sw.subscribe("a")];
  const [first, second] = [record(one), record(two)];
  await Promise.all([one.ready, two.ready]);
  hub.last.cut();
  await state(sw, "waiting");
  hub.publish("a", 1);
  one.unsubscribe();
  const three = sw.subscribe("a");
  const third = record(three);
  await three.ready;
  hub.publish("a", 2);
  await until(() => contents(second).length === 2 && contents(third).length === 1);
  assert.deepEqual([first, second, third].map(contents), [[], [1, 2], [2]]);
});

test("members are reported to the handles that asked for them", async () => {
  const [sw, other] = [client(), client({ token: "bob" })];
  await Promise.all([sw.connect(), other.connect()]);
  const plain = sw.subscribe("a");
  const received = record(plain);
  await plain.ready;
  const watching = sw.subscribe("a", { presence: true });
  await watching.ready;
  const joined = next(watching, "join");
  const guest = other.subscribe("a");
  assert.equal((await joined).member.user, "bob");
  const left = next(watching, "leave");
  await guest.unsubscribe();
  await left;
  assert.deepEqual(received.map(({ event }) => event), ["subscribed"]);
});

test("a handle whose token is rejected ends alone", async () => {
  const sw = client();
  await sw.connect();
  const good = sw.subscribe("a");
  const received = record(good);
  await good.ready;
  const bad = sw.subscribe("a", { token: "wrong" });
  await assert.rejects(bad.ready, { code: "forbidden" });
  await until(() => sent("subscribe").length === 3);
  await sw.ping();
  hub.publish("a", 1);
  await until(() => contents(received).length === 1);
  assert.ok(good.live);
});

// ---- What the server and the client do at the same time. ----

test("a backend and a client that subscribe at once agree", async () => {
  for (const options of [{}, { presence: true }, { token: "good" }]) {
    const sw = client();
    await sw.connect();
    hub.fault = (direction, { type }, connection) => {
      if (direction !== "in" || type !== "subscribe") return;
      hub.fault = null;
      connection.send({ type: "subscribed", ...connection.join("a").reply });
    };
    const sub = sw.subscribe("a", options);
    const received = record(sub);
    await sub.ready;
    hub.publish("a", "x");
    await until(() => contents(received).length > 0);
    assert.deepEqual(received.map(({ event }) => event), ["subscribed", "message"]);
    assert.equal(hub.last.subscriptions.get("a").presence, options.presence);
    sw.close();
  }
});

test("an unsubscribe that is lost is repeated, or made up for", async () => {
  const clock = new Clock();
  hub.heartbeatS = 0;
  const sw = client({ clock });
  await sw.connect();
  let lost = 0;
  hub.fault = (_, { type }) => {
    if (type !== "unsubscribe" || lost === 2) return;
    lost += 1;
    return "skip";
  };
  const handle = sw.subscribe("a");
  await handle.ready;
  const done = handle.unsubscribe();
  await until(() => lost === 1);
  clock.pass(10_000);
  await until(() => lost === 2);
  clock.pass(10_000);
  await done;
  assert.equal(hub.last.subscriptions.size, 0);
  lost = 1;
  const gone = sw.subscribe("b");
  await gone.ready;
  gone.unsubscribe();
  // The server has it still.
  const again = sw.subscribe("b");
  const received = record(again);
  const error = next(sw, "error");
  await error;
  clock.pass(10);
  await again.ready;
  hub.publish("b", 1);
  await until(() => contents(received).length === 1);
});

// ---- Tokens, tickets and grants. ----

test("channel tokens are renewed in time, and messages continue", async () => {
  const clock = new Clock();
  const nowS = Math.floor(Date.now() / 1000);
  const tokens = [];
  hub.channelTokens = true;
  hub.heartbeatS = 0;
  const sw = client({ clock, random: () => 0.5 });
  await sw.connect();
  const token = async () => {
    tokens.push(jwt(nowS, nowS + 100));
    return tokens.at(-1);
  };
  const sub = sw.subscribe("a", { token });
  const received = record(sub);
  await sub.ready;
  hub.publish("a", 1);
  clock.pass(69_000);
  assert.equal(tokens.length, 1);
  hub.historyMax = 0;
  clock.pass(2000);
  hub.publish("a", 2);
  await until(() => sent("subscribe").length === 2);
  await sw.ping();
  hub.publish("a", 3);
  await until(() => contents(received).length === 3);
  assert.deepEqual(received.map(({ event }) => event), ["subscribed", ...Array(3).fill("message")]);
  // The server was quicker: its end of the token decides nothing about the subscription.
  clock.pass(69_000);
  clock.at += 31_000;
  hub.last.unsubscribe("a");
  hub.last.send({ type: "unsubscribed", channel: "a" });
  await next(sub, "subscribed");
  assert.equal(tokens.length, 3);
  // A token that holds for long was not the reason.
  hub.last.unsubscribe("a");
  hub.last.send({ type: "unsubscribed", channel: "a" });
  assert.equal((await next(sub, "unsubscribed")).reason, "by the server");
  assert.equal(tokens.length, 3);
});

test("a token that cannot be renewed is reported, and asked for again", async () => {
  const clock = new Clock();
  const nowS = Math.floor(Date.now() / 1000);
  let calls = 0;
  hub.heartbeatS = 0;
  const sw = client({ clock, random: () => 0.5 });
  await sw.connect();
  const token = () => {
    calls += 1;
    if (calls === 2) throw new Error("503");
    return jwt(nowS, nowS + 100);
  };
  const sub = sw.subscribe("a", { token });
  await sub.ready;
  const error = next(sw, "error");
  clock.pass(71_000);
  assert.match((await error).message, /^a: 503/);
  assert.ok(sub.live);
  clock.pass(1000);
  await until(() => sent("subscribe").length === 2);
  assert.equal(calls, 3);
});

test("a token source that hangs does not stop the refresh", async () => {
  const clock = new Clock();
  let calls = 0;
  hub.heartbeatS = 0;
  const sw = client({ clock, token: () => (++calls === 2 ? new Promise(() => {}) : "ann:100") });
  await sw.connect();
  const error = next(sw, "error");
  clock.pass(80_000);
  clock.pass(10_000);
  assert.match((await error).message, /gave no token within 10000 ms/);
  clock.pass(3000);
  await until(() => calls === 3 && sent("auth").length === 2);
});

test("what the server renews by itself is used", async () => {
  hub.grants = true;
  const sw = client();
  await sw.connect();
  const sub = sw.subscribe("a");
  await sub.ready;
  const ticket = hub.ticket(hub.last);
  hub.last.send({ type: "ticket", ticket, grants: { a: "fresh", gone: "x" } });
  await sw.ping();
  const open = next(sw, "open");
  hub.last.cut();
  assert.equal((await open).resumed, true);
  const [{ ticket: used, positions }] = sent("resume");
  assert.deepEqual([used, positions.a.grant], [ticket, "fresh"]);
});

test("a resumption that cannot be served now keeps its ticket", async () => {
  const errors = ["rate_limited", "internal"];
  let fetched = 0;
  const sw = client({ token: () => `ann:${1000 + (fetched += 1)}` });
  await sw.connect();
  hub.fault = (direction, request, connection) => {
    if (request.type !== "resume" || !errors.length) return;
    connection.refuse(request, errors.shift());
    return "skip";
  };
  const open = next(sw, "open");
  hub.last.cut();
  assert.equal((await open).resumed, true);
  assert.deepEqual([fetched, hub.accepted.length], [1, 4]);
});

test("a server that asks for a token is an event with the remedy", async () => {
  hub.needsToken = true;
  const sw = client();
  const error = next(sw, "error");
  await sw.connect();
  const { code, message, remedy } = await error;
  assert.deepEqual([code, remedy], ["unauthorized", "pass a token as the option `token`"]);
  assert.equal(message, `the server asks for a token; ${remedy}`);
  for (const promise of [sw.subscribe("a").ready, sw.publish("a", 1), sw.history("a")]) {
    await assert.rejects(promise, { code: "unauthorized", remedy });
  }
  const closed = state(sw, "closed");
  hub.last.close(4408);
  assert.equal((await closed).error.remedy, remedy);
  await assert.rejects(client({ token: "bad" }).connect(), { remedy: /new token/ });
});

test("delays grow while nothing was authenticated, and where the server is busy", async () => {
  for (const [code, expected] of [[4408, [150, 300, 600]], [1013, [1800, 3600, 7200]]]) {
    hub.needsToken = code === 4408;
    const clock = new Clock();
    const sw = client({
      clock, token: () => null, random: () => 0.5, minDelayMs: 300, maxDelayMs: 30_000,
    });
    await sw.connect();
    const delays = [];
    for (let n = 0; n < 3; n += 1) {
      // Long enough for a connection that works.
      if (code === 4408) clock.pass(6000);
      const waiting = state(sw, "waiting");
      hub.last.close(code);
      const { delayMs } = await waiting;
      delays.push(delayMs);
      const open = next(sw, "open");
      clock.pass(delayMs);
      await open;
    }
    assert.deepEqual(delays, expected, `${code}`);
    sw.close();
  }
});

// ---- Publishes. ----

test("a publish is not repeated for a server that would not know it", async () => {
  const sw = client();
  await sw.connect();
  hub.fault = (_, { type }) => {
    if (type !== "published") return;
    hub.fault = null;
    hub.tickets.clear();
    return "cut";
  };
  const sure = sw.publish("a", 1);
  await assert.rejects(sure, { code: "disconnected", message: /it was published or not/ });
  assert.equal(hub.channel("a").history.length, 1);
  await sw.publish("a", 2);
  assert.equal(hub.channel("a").history.length, 2);
  // A user stays the owner of the key, whatever the connection.
  const named = client({ token: "ann" });
  await named.connect();
  hub.fault = (_, { type }) => {
    if (type !== "published") return;
    hub.fault = null;
    hub.tickets.clear();
    return "cut";
  };
  assert.equal((await named.publish("a", 3)).duplicate, true);
});

test("a publish without echo is not delivered to its sender after a cut", async () => {
  for (const fate of ["cut", "cut after", "skip"]) {
    const channel = `quiet ${fate}`;
    const clock = new Clock();
    hub.heartbeatS = 0;
    const [sw, other] = [client({ clock }), client()];
    await Promise.all([other.connect(), sw.connect()]);
    const sub = sw.subscribe(channel);
    const received = record(sub);
    await sub.ready;
    hub.fault = (_, { type, id }) => {
      if (type !== "published" || id === undefined) return;
      hub.fault = null;
      hub.publish(channel, "between");
      return fate;
    };
    const done = sub.publish("mine", { echo: false });
    if (fate === "skip") {
      await until(() => hub.fault === null);
      clock.pass(10_000);
      await assert.rejects(done, { code: "timeout" });
    } else {
      await state(sw, "waiting");
      clock.pass(10);
      await done;
    }
    await sub.publish("loud");
    await other.publish(channel, "end");
    await until(() => contents(received).includes("end"));
    assert.deepEqual(contents(received), ["between", "loud", "end"], fate);
    assert.ok(received.every(({ event }) => event !== "gap"), fate);
  }
});

test("a publish that is given up too late to be repeated says so", async () => {
  const clock = new Clock();
  const sw = client({ clock });
  const never = sw.publish("a", 1);
  clock.pass(280_000);
  await assert.rejects(never, { code: "timeout", message: /^not published: no connection/ });
  await sw.connect();
  hub.fault = (_, { type }) => (type === "published" ? "cut" : undefined);
  const waiting = state(sw, "waiting");
  const sent = sw.publish("a", 2);
  await waiting;
  hub.fault = null;
  // The computer slept: one of the clocks shows it.
  clock.wallAheadMs = 300_000;
  sw.reconnect();
  clock.pass(0);
  await assert.rejects(sent, { code: "disconnected" });
  assert.equal(hub.channel("a").history.length, 1);
});

// ---- No connection. ----

test("every promise settles where no server is", async () => {
  await hub.stop();
  const sw = client({ requestTimeoutMs: 40, publishTimeoutMs: 60, queueMax: 4 });
  const errors = [];
  sw.on("error", (error) => errors.push(error));
  const sub = sw.subscribe("a");
  const first = sub.ready;
  await assert.rejects(sw.connect(), { code: "timeout", remedy: /the URL/ });
  await assert.rejects(first, { code: "timeout" });
  assert.equal(errors.length, 1, "one outage, one error");
  assert.match(errors[0].message, /no connection/);
  const asked = [sub.presence(), sub.history(), sub.publish(1), sw.ping()];
  await assert.rejects(sub.publish(2), { code: "limit" });
  for (const promise of asked) await assert.rejects(promise, { code: "timeout" });
  await assert.rejects(sw.connect(), { code: "timeout" });
  // None of these is awaited.
  range(1, 9).forEach((n) => sub.publish(n));
  sw.ping();
  sw.publish("a", undefined);
  sw.connect();
  const ended = next(sub, "unsubscribed");
  sw.close();
  assert.equal((await ended).reason, "the client was closed");
  sw.publish("a", 3);
  hub = await MockHub.start(ws);
});

test("what the server answers instead of an upgrade is reported at once", async () => {
  const cases = [[401, "unauthorized"], [403, "forbidden"], [404, "not_found"]];
  for (const [status, code] of cases) {
    const server = createServer((_, response) => response.writeHead(status).end());
    server.on("upgrade", (_, socket) => socket.end(`HTTP/1.1 ${status} No\r\n\r\n`));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const sw = client({}, `ws://127.0.0.1:${server.address().port}/wrong`);
    const [error, waiting] = [next(sw, "error"), state(sw, "waiting")];
    const sub = sw.subscribe("a");
    const ready = sub.ready;
    await assert.rejects(sw.connect(), { code });
    assert.equal((await error).code, code);
    await assert.rejects(ready, { code });
    const { reason, remedy } = await waiting;
    assert.match(reason, new RegExp(status));
    assert.ok(remedy);
    assert.notEqual(sw.state, "closed", "it may be repaired");
    sw.close();
    server.close();
  }
});

test("requests that the server drops end, and subscriptions are tried again", async () => {
  const clock = new Clock();
  hub.heartbeatS = 0;
  const sw = client({ clock });
  await sw.connect();
  hub.fault = (direction, { type }) => (direction === "in" && type !== "ping" ? "skip" : undefined);
  const sub = sw.subscribe("a");
  const asked = [sub.ready, sw.publish("a", 1), sw.history("a"), sw.presence("a")];
  for (let n = 1; n <= 5; n += 1) {
    await until(() => sent("subscribe").length === n);
    clock.pass(10_000);
    clock.pass(10);
  }
  for (const promise of asked) await assert.rejects(promise, { code: "timeout" });
  await until(() => sent("subscribe").length === 6);
  hub.fault = null;
  clock.pass(10_000);
  clock.pass(10);
  await sub.ready;
  assert.equal(hub.channel("a").members.size, 1);
});

test("a server without heartbeat is not pinged", async () => {
  const clock = new Clock();
  hub.heartbeatS = 0;
  const sw = client({ clock });
  await sw.connect();
  clock.pass(100_000);
  await sw.subscribe("a").ready;
  assert.equal(sent("ping").length, 0);
});

test("a dead line is noticed whatever the clock says", async () => {
  const clock = new Clock();
  const sw = client({ clock, minDelayMs: 300 });
  await sw.connect();
  hub.fault = () => "silent";
  clock.pass(25_000);
  await until(() => hub.last.silent);
  clock.aheadMs = -3_600_000;
  clock.pass(5000);
  assert.equal(sw.state, "waiting");
});
