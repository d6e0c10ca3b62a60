// Clients that publish and receive without a pause while the nodes of a cluster restart one by one:
//
//     node rolling.mjs PACKAGES CLIENTS
//
// Reads one JSON line after another: `{"urls": […]}` says where the nodes are, `{"progress": NAME}` is
// answered with the name once every client has received more, and `{"finish": true}` ends the run. Each
// client chooses the next node whenever its connection ends. At the end each must have every message of
// each channel once, in order and without a gap, and no connection may have ended other than by 1001.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { Seawall } from "../../src/web/seawall.js";

const [packages, count] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)("ws");
const CHANNELS = ["one", "two", "three"];
const PROGRESS = 30;
const PAUSE_MS = 20;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(holds) {
  while (!holds()) await pause(5);
}

let urls = [];
let isEnding = false;

/** A client, what it has received by channel, and what it has published. */
class Roamer {
  constructor(number) {
    this.number = number;
    this.node = number;
    this.published = 0;
    this.heard = 0;
    this.codes = [];
    this.problems = [];
    this.received = new Map(CHANNELS.map((channel) => [channel, []]));
    this.sw = new Seawall(this.nextUrl(), { WebSocket, minDelayMs: 20, maxDelayMs: 200 });
    this.sw.on("state", ({ state, previous, code, reason }) => {
      if (state !== "waiting") return;
      if (previous === "open") this.codes.push(`${code} ${reason}`);
      this.sw.url = this.nextUrl();
    });
    this.sw.on("open", ({ resumed }) => {
      if (this.heard && !resumed) this.problems.push("was not resumed");
    });
  }

  nextUrl() {
    this.node += 1;
    return urls[this.node % urls.length];
  }

  async start() {
    await this.sw.connect();
    this.subscriptions = CHANNELS.map((channel) => this.sw.subscribe(channel));
    for (const sub of this.subscriptions) {
      sub.on("gap", (gap) => this.problems.push(`gap ${JSON.stringify(gap)}`));
      sub.on("unsubscribed", ({ reason }) => isEnding || this.problems.push(`ended: ${reason}`));
      sub.on("message", ({ channel, epoch, offset, content }) => {
        this.received.get(channel).push({ epoch, offset, content });
        this.heard += 1;
      });
    }
    await Promise.all(this.subscriptions.map(({ ready }) => ready));
  }

  async publish() {
    while (!isEnding) {
      const content = `${this.number}-${this.published}`;
      const channel = CHANNELS[this.published % CHANNELS.length];
      this.published += 1;
      await this.sw.publish(channel, content);
      await pause(PAUSE_MS);
    }
  }
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const read = async () => JSON.parse((await lines.next()).value);

({ urls } = await read());
const roamers = Array.from({ length: Number(count) }, (_, number) => new Roamer(number));
await Promise.all(roamers.map((one) => one.start()));
// Everyone is a member: from here on each must receive all.
const publishing = Promise.all(roamers.map((one) => one.publish()));
for (;;) {
  const { urls: fresh, progress, finish } = await read();
  if (finish) break;
  if (fresh) urls = fresh;
  if (!progress) continue;
  const before = roamers.map(({ heard }) => heard);
  await until(() => roamers.every(({ heard }, at) => heard >= before[at] + PROGRESS));
  console.log(progress);
}
isEnding = true;
await publishing;
const total = roamers.reduce((sum, { published }) => sum + published, 0);
const isComplete = ({ heard, problems }) => heard >= total || problems.length > 0;
await until(() => roamers.every(isComplete));
// What would come twice comes before the answer.
await Promise.all(roamers.map(({ sw }) => sw.ping()));

for (const { number, codes, problems, received } of roamers) {
  assert.deepEqual(problems, [], `client ${number}`);
  assert.deepEqual(codes.filter((code) => !code.startsWith("1001 ")), [], `client ${number}`);
  assert.ok(codes.length > 0, `client ${number} had to move`);
  for (const [channel, messages] of received) {
    const offsets = messages.map(({ offset }) => offset);
    const expected = messages.map((_, at) => at + 1);
    assert.deepEqual(offsets, expected, `client ${number}: ${channel}`);
    assert.deepEqual(messages, roamers[0].received.get(channel), `client ${number}: ${channel}`);
  }
}
const contents = [...roamers[0].received.values()].flat().map(({ content }) => content);
assert.deepEqual([contents.length, new Set(contents).size], [total, total], "each was published once");
for (const channel of CHANNELS) {
  const of = (number) => roamers[0].received.get(channel).map(({ content }) => content)
    .filter((content) => content.startsWith(`${number}-`)).map((content) => Number(content.split("-")[1]));
  for (const { number } of roamers) {
    const own = of(number);
    assert.deepEqual(own, [...own].sort((one, other) => one - other), "the order of a client");
  }
}
roamers.forEach(({ sw }) => sw.close());
const moves = roamers.reduce((sum, { codes }) => sum + codes.length, 0);
console.error(`${total} messages, ${moves} moves of ${roamers.length} clients`);
console.log("all passed");
process.exit(0);
