// Laravel Echo over pusher-js: public, private and presence channels, whispers, notifications.
//
// node with_echo.mjs MODULES PORT
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, port] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const library = require('pusher-js');
const Pusher = library.Pusher ?? library;
const Backend = require('pusher');
const { default: Echo } = await import(`${modules}/node_modules/laravel-echo/dist/echo.js`);

const backend = new Backend({
  appId: '1', key: 'key-1', secret: 'secret-1', host: '127.0.0.1', port, useTLS: false,
});
const connect = (user) => new Echo({
  broadcaster: 'pusher',
  client: new Pusher('key-1', {
    cluster: '', wsHost: '127.0.0.1', wsPort: Number(port), forceTLS: false,
    enabledTransports: ['ws'],
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        const member = channelName.startsWith('presence-') ? { user_id: user } : undefined;
        done(null, backend.authorizeChannel(socketId, channelName, member));
      },
    },
  }),
});
const called = (bind) => new Promise((resolve) => { bind(resolve); });

const ann = connect('ann');
const bob = connect('bob');
const open = ann.channel('orders');
await called((done) => open.subscribed(done));
const shipped = called((done) => open.listen('.shipped', done));
await backend.trigger('orders', 'shipped', { id: 7 });
assert.deepEqual(await shipped, { id: 7 });

const own = ann.private('a');
const others = bob.private('a');
await Promise.all([own, others].map((channel) => called((done) => channel.subscribed(done))));
const whispered = called((done) => others.listenForWhisper('typing', done));
own.whisper('typing', { at: 1 });
assert.deepEqual(await whispered, { at: 1 });
const notified = called((done) => own.notification(done));
await backend.trigger('private-a',
  'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated', { n: 2 });
assert.deepEqual(await notified, { n: 2 });

const room = ann.join('room');
const here = await called((done) => room.here(done));
assert.equal(here.length, 1);
const joined = called((done) => room.joining(done));
const other = bob.join('room');
await called((done) => other.here(done));
await joined;
const left = called((done) => room.leaving(done));
bob.leave('room');
await left;

for (const echo of [ann, bob]) echo.disconnect();
process.stdout.write('works\n', () => process.exit(0));
