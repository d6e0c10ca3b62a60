// The client library while the engine of a cluster is stopped and continued:
//
//     node library.mjs PACKAGES URL
//
// Prints what has happened, one line each; the test stops the engine after `joined`, says so by a
// line, and continues it after `repeating`.

import { createRequire } from "node:module";
import { Seawall } from "../../src/web/seawall.js";

const [packages, url] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)("ws");
const say = (text) => console.log(text);
const next = (source, event) => new Promise((resolve) => source.once(event, resolve));

/** How often each content was sent. */
const sent = new Map();
class Counting extends WebSocket {
  send(text) {
    const { type, content } = JSON.parse(text);
    if (type === "publish") sent.set(content, (sent.get(content) ?? 0) + 1);
    super.send(text);
  }
}

async function until(holds) {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const sw = new Seawall(url, { WebSocket: Counting });
await sw.connect();
const sub = sw.subscribe("room");
await sub.ready;
const found = [];
sub.on("message", ({ content }) => found.push(content));
const away = next(sw, "engine");
say("joined");
await new Promise((resolve) => process.stdin.once("data", resolve));
process.stdin.destroy();
// Sent before the connection to the engine is known to be dead.
const publishing = [sub.publish("stopped")];
say((await away).state);
await until(() => sent.get("stopped") >= 2);
publishing.push(sub.publish("away"));
await until(() => sent.get("away") >= 2);
const back = next(sw, "engine");
say("repeating");
say((await back).state);
await Promise.all(publishing);
await sub.publish("last");
say("published");
await until(() => found.includes("last"));
say([...found.slice(0, -1).sort(), found.at(-1)].join(" "));
sw.close();
