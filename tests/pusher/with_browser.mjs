// pusher-js in a page and in a worker of a headless browser, and the library `pusher` as their
// backend.
//
// node with_browser.mjs MODULES PORT
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { createRequire } from 'node:module';

const [modules, port] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { chromium } = require('playwright-core');
const Backend = require('pusher');

const backend = new Backend({
  appId: '1', key: 'key-1', secret: 'secret-1', host: '127.0.0.1', port, useTLS: false,
});
// Of another origin than the server of channels.
const files = {
  '/pusher.js': readFileSync(`${modules}/node_modules/pusher-js/dist/web/pusher.min.js`),
  '/worker.js': `importScripts('/library.js');
    const client = new Pusher('key-1', {
      cluster: '', wsHost: '127.0.0.1', wsPort: ${Number(port)}, forceTLS: false,
      enabledTransports: ['ws'],
    });
    const news = client.subscribe('news');
    news.bind('pusher:subscription_succeeded', () => postMessage('ready'));
    news.bind('order', (data) => postMessage(data));`,
  '/library.js': readFileSync(`${modules}/node_modules/pusher-js/dist/worker/pusher.worker.min.js`),
  '/': '<!doctype html><script src="/pusher.js"></script>',
};
const pages = createServer((request, response) => {
  const file = files[request.url];
  const type = request.url === '/' ? 'text/html' : 'text/javascript';
  response.writeHead(file ? 200 : 404, { 'Content-Type': type });
  response.end(file ?? '');
}).listen(0, '127.0.0.1');
await once(pages, 'listening');

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
const page = await browser.newPage();
await page.exposeFunction('sign', (socketId, channel, user) => {
  const member = channel.startsWith('presence-') ? { user_id: user } : undefined;
  return backend.authorizeChannel(socketId, channel, member);
});
await page.goto(`http://127.0.0.1:${pages.address().port}/`);

// In the page: two clients, events of clients, members.
const [typed, members] = await page.evaluate(async (wsPort) => {
  const connect = (user) => new Pusher('key-1', {
    cluster: '', wsHost: '127.0.0.1', wsPort, forceTLS: false, enabledTransports: ['ws'],
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        window.sign(socketId, channelName, user).then((auth) => done(null, auth));
      },
    },
  });
  const join = (client) => new Promise((resolve) => {
    const room = client.subscribe('presence-room');
    room.bind('pusher:subscription_succeeded', () => resolve(room));
  });
  const [ann, bob] = [await join(connect('ann')), await join(connect('bob'))];
  const typed = new Promise((resolve) => {
    ann.bind('client-typing', (data, about) => resolve([data, about]));
  });
  bob.trigger('client-typing', { at: 1 });
  return [await typed, Object.keys(bob.members.members).sort()];
}, Number(port));
assert.deepEqual(typed, [{ at: 1 }, { user_id: 'bob' }]);
assert.deepEqual(members, ['ann', 'bob']);

// In a worker: an event of the backend.
await page.exposeFunction('publish', () => backend.trigger('news', 'order', { n: 3 }).then(() => 0));
const order = await page.evaluate(() => new Promise((resolve) => {
  const worker = new Worker('/worker.js');
  worker.onmessage = ({ data }) => (data === 'ready' ? window.publish() : resolve(data));
}));
assert.deepEqual(order, { n: 3 });

await browser.close();
pages.close();
process.stdout.write('works\n', () => process.exit(0));
