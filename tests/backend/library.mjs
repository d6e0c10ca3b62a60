// The client library against an application that decides and answers:
//
//     node library.mjs PACKAGES URL
//
// The client is known by a cookie. Prints what it observes, one line each.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Seawall } from "../../src/web/seawall.js";

const [packages, url] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)("ws");
const say = (text) => console.log(text);
const next = (source, event) => new Promise((resolve) => source.once(event, resolve));

const offers = [];
class Cookie extends WebSocket {
  constructor(address, protocols) {
    offers.push(protocols);
    super(address, protocols, { headers: { cookie: "session=s-ann" } });
  }
}

const sw = new Seawall(url, { WebSocket: Cookie, minDelayMs: 1 });
await sw.connect();
const sub = sw.subscribe("private:ann");
await sub.ready;
const found = [];
sub.on("message", ({ content }) => found.push(content));
assert.equal(await sw.call("add", [1, 2, 3]), 6);
await assert.rejects(sw.call("sub"), { code: "no_method" });
await assert.rejects(sw.subscribe("private:bob").ready, { code: "not_yours" });
await assert.rejects(sub.publish("spam"), { code: "spam" });
await sub.publish(" one ");
say("works");

const again = next(sw, "open");
sw.reconnect();
assert.equal((await again).resumed, true);
assert.deepEqual(offers[0], ["seawall.v1"]);
assert.match(offers[1][1], /^seawall\.ticket\./);
await sub.publish("two");
while (found.length < 2) await next(sub, "message");
assert.deepEqual(found, ["one", "two"]);
say("resumed");

// A call is not repeated: its connection is lost before the application answers.
const lost = sw.call("slow");
lost.catch(() => {});
await new Promise((resolve) => process.stdin.once("data", resolve));
sw.reconnect();
await assert.rejects(lost, { code: "disconnected", message: /carried out or not/ });
say("lost");

// What the application said ends: first about the channel, then about the client. Both come back.
if (sw.state !== "open") await next(sw, "open");
const order = [];
sw.on("open", () => order.push("open"));
const short = sw.subscribe("private:short");
short.on("subscribed", () => order.push("subscribed"));
await short.ready;
while (!order.includes("open")) await next(sw, "open");
assert.deepEqual(order.slice(0, 2), ["subscribed", "subscribed"]);
await short.publish("three");
say("known again");
sw.close();
process.stdin.destroy();
