// The client library in a worker of a real browser, where there is neither document nor window, and
// which comes from another origin than the library: folder of the packages and the address of a
// running server, whose /ws takes every origin, as arguments.
//
// Ends with 0 and `all passed` when everything was as it must be.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [packages, address] = process.argv.slice(2);
const { chromium } = createRequire(`${packages}/`)('playwright-core');

const WORKER = `
import { Seawall } from "http://${address}/seawall.js";
const client = new Seawall("ws://${address}/ws", { minDelayMs: 50, maxDelayMs: 100 });
const sub = client.subscribe("chat:worker");
const heard = [];
sub.on("message", ({ content, recovered }) => {
  heard.push([content, recovered]);
  if (heard.length === 1) client.reconnect({ afterMs: 200 });
  if (heard.length === 2) postMessage({ heard, document: typeof document });
});
client.on("error", (error) => postMessage({ error: String(error) }));
client.connect();
await sub.publish("one");
await sub.publish("two");
`;

const files = createServer((request, response) => {
  const isWorker = request.url === '/worker.js';
  response.setHeader('content-type', isWorker ? 'text/javascript' : 'text/html');
  response.end(isWorker ? WORKER : '<!doctype html><link rel=icon href=data:,>');
});
files.listen(0, '127.0.0.1');
await once(files, 'listening');
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
});
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${files.address().port}/`);
  const received = await page.evaluate(() => new Promise((resolve) => {
    const worker = new Worker('/worker.js', { type: 'module' });
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => resolve({ error: message });
  }));
  assert.equal(received.error, undefined);
  assert.equal(received.document, 'undefined', 'it is a worker');
  assert.deepEqual(received.heard.map(([content]) => content), ['one', 'two']);
} finally {
  await browser.close();
  files.close();
}
console.log('all passed');
