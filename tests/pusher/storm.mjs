// Clients that retry like pusher-js, a second after a cut and without jitter: all of them are cut
// at once, and come back with their subscriptions.
//
// node storm.mjs MODULES PORT API-PORT
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, port] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const WebSocket = require('ws');

const CLIENTS = 2000;
let subscribed = 0;
let wait;
const codes = new Map();

const connect = (client) => {
  client.socket = new WebSocket(`ws://127.0.0.1:${port}/app/key-1?protocol=7&client=storm`);
  client.socket.on('error', () => {});
  client.socket.on('message', (text) => {
    const { event } = JSON.parse(text);
    if (event === 'pusher:connection_established') {
      const data = { channel: `room-${client.number % 100}`, auth: '' };
      client.socket.send(JSON.stringify({ event: 'pusher:subscribe', data }));
    } else if (event === 'pusher_internal:subscription_succeeded') {
      subscribed += 1;
      if (subscribed === CLIENTS) wait();
    }
  });
  client.socket.on('close', (code) => {
    if (client.isDone) return;
    codes.set(code, (codes.get(code) ?? 0) + 1);
    assert.ok(code < 4000 || code >= 4100, `closed with ${code}, after which clients give up`);
    setTimeout(() => connect(client), code >= 4200 ? 0 : 1000);
  });
};
const all = () => new Promise((resolve) => { wait = resolve; subscribed = 0; });

const clients = Array.from({ length: CLIENTS }, (_, number) => ({ number }));
const first = all();
clients.forEach(connect);
await first;
const again = all();
clients.forEach((client) => client.socket.terminate());
await again;
clients.forEach((client) => { client.isDone = true; client.socket.terminate(); });
process.stdout.write('works\n', () => process.exit(0));
