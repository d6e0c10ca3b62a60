// Two clients of a cluster behind a balancer, one of whose nodes is killed:
//
//     node balanced.mjs PACKAGES URL ADMIN
//
// ADMIN is the address of any node. Its list of nodes has the process ids, and the first bytes of a
// connection's id are the number of its node.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { Seawall } from "../../src/web/seawall.js";

const [packages, url, ...admins] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)("ws");
const next = (source, event) => new Promise((resolve) => source.once(event, resolve));
async function until(holds) {
  while (!await holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}
const nodeOf = ({ connection }) => Buffer.from(connection, "base64url").readUInt32BE(0);

let nodes;
await until(async () => {
  ({ nodes } = await (await fetch(`${admins[0]}/v1/nodes`)).json());
  return nodes.length === admins.length;
});
const pids = new Map(nodes.map(({ node, name }) => [node, Number(name.split(":").at(-1))]));

const clients = [1, 2].map(() => new Seawall(url, { WebSocket, minDelayMs: 20, maxDelayMs: 200 }));
for (const sw of clients) await sw.connect();
const [moving, staying] = clients;
const [first, second] = clients.map(nodeOf);
assert.notEqual(first, second, "the balancer spreads clients");
const gaps = [];
const received = clients.map((sw) => {
  const contents = [];
  const sub = sw.subscribe("room");
  sub.on("message", ({ content }) => contents.push(content));
  sub.on("gap", (gap) => gaps.push(gap));
  sw.ready = sub.ready;
  return contents;
});
await Promise.all(clients.map(({ ready }) => ready));

let sent = 0;
const publish = async (times) => {
  for (let left = times; left > 0; left -= 1) await staying.publish("room", sent++);
};
await publish(20);
const lost = next(moving, "state");
const opened = next(moving, "open");
process.kill(pids.get(first), "SIGKILL");
assert.equal((await lost).state, "waiting");
await publish(20);
assert.equal((await opened).resumed, true);
assert.notEqual(nodeOf(moving), first);
await publish(20);
await moving.publish("room", sent++);
await until(() => received.every((contents) => contents.length >= sent));
await Promise.all(clients.map((sw) => sw.ping()));
const expected = Array.from({ length: sent }, (_, n) => n);
assert.deepEqual(received, [expected, expected]);
assert.deepEqual(gaps, []);
clients.forEach((sw) => sw.close());
console.log(`killed ${pids.get(first)}`);
