// npm `ws` against a running server: folder of the packages and URL as arguments, behind them
// authority and version of TLS. It compresses everything; the path says whether contexts are taken
// over.
//
// Ends with 0 and `all passed` when everything was as it must be. Before the last check it says
// `waiting`: then the caller drains the server.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [packages, url, authority, version] = process.argv.slice(2);
const WebSocket = createRequire(`${packages}/`)('ws');
const BIG = 16 << 20;
const tls = authority
  ? { ca: readFileSync(authority), minVersion: `TLSv${version}`, maxVersion: `TLSv${version}` }
  : {};

const opened = async () => {
  // By itself it compresses what is longer than a kilobyte.
  const perMessageDeflate = { threshold: 0 };
  const socket = new WebSocket(url, { handshakeTimeout: 20_000, perMessageDeflate, ...tls });
  await once(socket, 'open');
  return socket;
};

const echo = async (socket, message, what) => {
  socket.send(message);
  const [found, isBinary] = await once(socket, 'message');
  assert.equal(isBinary, typeof message !== 'string', `${what}: with its opcode`);
  assert.ok(found.equals(Buffer.from(message)), `${what} comes back`);
};

const closed = async (socket) => {
  // A server that refuses a message may end the connection while it is still being sent.
  socket.on('error', () => {});
  const [code, reason] = await once(socket, 'close');
  return [code, reason.toString()];
};

if (authority) {
  const distrustful = new WebSocket(url, { handshakeTimeout: 20_000 });
  await assert.rejects(once(distrustful, 'open'), { code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
}

const socket = await opened();
assert.equal(socket.extensions, 'permessage-deflate');
const { params } = socket._extensions['permessage-deflate'];
assert.deepEqual(
  { ...params },
  url.endsWith('/takeover')
    ? { client_max_window_bits: 12 }
    : { server_no_context_takeover: true, client_no_context_takeover: true },
  'compression is as the route has it');
for (const text of ['', 'hello', 'grüße, 世界, 🦭', 'x'.repeat(70_000)]) {
  await echo(socket, text, 'a text');
}
for (const length of [0, 1, 125, 126, 127, 65535, 65536, 1 << 20, BIG]) {
  await echo(socket, Buffer.alloc(length, 7), `${length} bytes`);
}

// Fragments, with a ping between them that is answered first.
const order = [];
socket.once('pong', (payload) => order.push(payload.toString()));
socket.send('grü', { fin: false });
socket.send('', { fin: false });
socket.ping('between');
socket.send('ße', { fin: true });
const [fragmented] = await once(socket, 'message');
order.push(fragmented.toString());
assert.deepEqual(order, ['between', 'grüße']);

// Many at once come back in order.
const many = Array.from({ length: 5000 }, (_, n) => `message ${n}`);
const found = [];
const all = new Promise((resolve) => {
  socket.on('message', (message) => found.push(message.toString()) === many.length && resolve());
});
many.forEach((message) => socket.send(message));
await all;
assert.deepEqual(found, many);
socket.close();
await closed(socket);

for (const code of [1000, 3001, 4000]) {
  const one = await opened();
  one.close(code, 'bye');
  assert.equal((await closed(one))[0], code, 'the server answers with the same code');
}

const wrong = await opened();
wrong._socket.write(Buffer.from([0xf1, 0x80, 1, 2, 3, 4]));
const [code, reason] = await closed(wrong);
assert.equal(code, 1002, 'a reserved bit is a protocol error');
assert.match(reason, /reserved bit/);

const large = await opened();
large.send(Buffer.alloc(BIG + 1));
assert.equal((await closed(large))[0], 1009, 'a message above the limit is too big');

const last = await opened();
console.log('waiting');
assert.equal((await closed(last))[0], 1001, 'a server that goes says so');
console.log('all passed');
