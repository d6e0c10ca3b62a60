// A real browser against a running server: folder of the packages, the address of a foreign page
// and the server's URL as arguments, behind them authority and version of TLS. The server has a
// route /echo for every origin and a route /own for its own.
//
// Ends with 0 and `all passed` when everything was as it must be. Before the last check it says
// `waiting`: then the caller drains the server.

import assert from 'node:assert/strict';
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';

const [packages, foreignPage, url, authority, version] = process.argv.slice(2);
const { chromium } = createRequire(`${packages}/`)('playwright-core');

// Runs in the page: opens a socket, sends, and reports all events until it was closed.
const talk = ({ url, sends, close }) =>
  new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    const received = { opened: false, echoes: 0, wrong: [] };
    const made = sends.map((one) =>
      typeof one === 'number' ? new Uint8Array(one).map((_, at) => at * 31) : one);
    const same = (one, other) => {
      if (typeof one === 'string') return one === other;
      const bytes = new Uint8Array(other);
      return bytes.length === one.length && one.every((byte, at) => byte === bytes[at]);
    };
    const done = () => close && socket.close(...close);
    socket.onopen = () => {
      received.opened = true;
      received.extensions = socket.extensions;
      made.forEach((message) => socket.send(message));
      if (!made.length) done();
    };
    socket.onmessage = ({ data }) => {
      if (!same(made[received.echoes], data)) received.wrong.push(received.echoes);
      received.echoes += 1;
      if (received.echoes === made.length) done();
    };
    socket.onclose = ({ code, reason, wasClean }) =>
      resolve({ ...received, code, reason, wasClean });
  });

const launch = (folder, ...more) => chromium.launchPersistentContext(folder, {
  executablePath: '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', ...more],
});

// The browser's store of authorities is the machine's. It is made to trust one key instead: that of
// the certificate which the authority has signed.
const trusted = async () => {
  const { hostname: host, port } = new URL(url);
  const options = { ca: readFileSync(authority), maxVersion: `TLSv${version}` };
  const socket = connect({ host, port, servername: host, ...options });
  await once(socket, 'secureConnect');
  const { publicKey } = new X509Certificate(socket.getPeerCertificate().raw);
  socket.destroy();
  const key = publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(key).digest('base64');
};

const folder = await mkdtemp(join(tmpdir(), 'seawall-chromium-'));
const options = [];
if (authority) {
  const distrustful = await launch(join(folder, 'distrustful'));
  const page = await distrustful.newPage();
  await page.goto(`http://${foreignPage}/healthz`);
  const { opened, code } = await page.evaluate(talk, { url: `${url}/echo`, sends: [], close: null });
  assert.deepEqual([opened, code], [false, 1006], 'an unknown authority is refused');
  await distrustful.close();
  options.push(`--ignore-certificate-errors-spki-list=${await trusted()}`);
  options.push(`--ssl-version-max=tls${version}`);
}
const browser = await launch(join(folder, 'profile'), ...options);
try {
  const page = await browser.newPage();
  const from = (address) => page.goto(address);
  const run = (path, sends = [], close = null) =>
    page.evaluate(talk, { url: `${url}${path}`, sends, close });

  // A page of another origin: only where every origin may.
  await from(`http://${foreignPage}/healthz`);
  const messages = ['', 'hello', 'grüße, 世界, 🦭', 'x'.repeat(70_000), 0, 1, 126, 65_536, 16 << 20];
  const shared = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';
  const takeover = 'permessage-deflate; client_max_window_bits=12';
  for (const [path, extensions] of [['/echo', shared], ['/takeover', takeover]]) {
    const received = await run(path, messages, [1000, 'bye']);
    assert.deepEqual(received, {
      opened: true, echoes: messages.length, wrong: [], extensions, code: 1000, reason: '',
      wasClean: true,
    });
  }
  for (const code of [3001, 4000]) {
    const { code: found, wasClean } = await run('/echo', ['a'], [code, 'bye']);
    assert.deepEqual([found, wasClean], [code, true], 'the server answers with the same code');
  }
  const foreign = await run('/own');
  assert.deepEqual([foreign.opened, foreign.code], [false, 1006], 'a foreign page is refused');

  // A page of the server's own.
  await from(`${url.replace(/^ws/, 'http')}/healthz`);
  const own = await run('/own', ['mine'], [1000]);
  assert.deepEqual([own.opened, own.echoes, own.code, own.extensions], [true, 1, 1000, '']);

  const large = await run('/echo', [(16 << 20) + 1]);
  assert.deepEqual([large.code, large.wasClean], [1009, true], 'too big, and reported');
  assert.match(large.reason, /larger/);

  const last = run('/echo', ['last']);
  // The page cannot report in between; one message takes no longer than this.
  setTimeout(() => console.log('waiting'), 1000);
  const { code, wasClean, echoes } = await last;
  assert.deepEqual([code, wasClean, echoes], [1001, true, 1], 'a server that goes says so');
} finally {
  await browser.close();
  await rm(folder, { recursive: true, force: true });
}
console.log('all passed');
