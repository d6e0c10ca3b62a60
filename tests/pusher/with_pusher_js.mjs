// pusher-js as clients, and the library `pusher` as their backend: every kind of channel, events of
// clients, presence with several connections of a user, users, and errors.
//
// node with_pusher_js.mjs MODULES PORT [tls]
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [modules, port, tls] = process.argv.slice(2);
const useTLS = tls === 'tls';
// The certificate is for this name.
const host = useTLS ? 'localhost' : '127.0.0.1';
const require = createRequire(`${modules}/`);
const library = require('pusher-js');
const Pusher = library.Pusher ?? library;
const Backend = require('pusher');

const backend = new Backend({
  appId: '1', key: 'key-1', secret: 'secret-1', host, port, useTLS,
  encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString('base64'),
});

const connect = (user, key = 'key-1') => new Pusher(key, {
  cluster: '', wsHost: host, wsPort: Number(port), wssPort: Number(port), forceTLS: useTLS,
  enabledTransports: ['ws', 'wss'],
  channelAuthorization: {
    customHandler: ({ socketId, channelName }, done) => {
      const member = { user_id: user, user_info: { name: `name of ${user}` } };
      const isPresence = channelName.startsWith('presence-');
      const auth = backend.authorizeChannel(socketId, channelName, isPresence ? member : undefined);
      if (channelName.endsWith('-forbidden')) auth.auth = 'key-1:00';
      done(null, auth);
    },
  },
  userAuthentication: {
    customHandler: ({ socketId }, done) => {
      done(null, backend.authenticateUser(socketId, { id: user, name: user }));
    },
  },
});
const next = (target, event) => new Promise((resolve) => {
  const handle = (data) => { target.unbind(event, handle); resolve(data); };
  target.bind(event, handle);
});
const subscribe = async (client, name) => {
  const channel = client.subscribe(name);
  await next(channel, 'pusher:subscription_succeeded');
  return channel;
};

const ann = connect('ann');
const bob = connect('bob');
const channels = new Map();
for (const name of ['news', 'private-a', 'private-encrypted-a', 'presence-a']) {
  channels.set(name, [await subscribe(ann, name), await subscribe(bob, name)]);
}

// Events of the backend, on every kind of channel.
for (const [name, [channel]] of channels) {
  const received = next(channel, 'order');
  await backend.trigger(name, 'order', { number: 1, text: 'ä "quoted"' });
  assert.deepEqual(await received, { number: 1, text: 'ä "quoted"' });
}

// An excluded socket does not receive the event.
const seen = [];
channels.get('news')[0].bind('excluded', () => seen.push('ann'));
channels.get('news')[0].bind('last', () => seen.push('last'));
const others = next(channels.get('news')[1], 'excluded');
await backend.trigger('news', 'excluded', {}, { socket_id: ann.connection.socket_id });
await others;
const last = next(channels.get('news')[0], 'last');
await backend.triggerBatch([{ channel: 'news', name: 'last', data: {} }]);
await last;
assert.deepEqual(seen, ['last']);

// Events of clients, with their user on presence channels.
const typed = new Promise((resolve) => {
  channels.get('presence-a')[1].bind('client-typing', (data, about) => resolve([data, about]));
});
assert.ok(channels.get('presence-a')[0].trigger('client-typing', { at: 5 }));
assert.deepEqual(await typed, [{ at: 5 }, { user_id: 'ann' }]);

// Members, with several connections of one user.
const room = channels.get('presence-a')[0];
assert.deepEqual(Object.keys(room.members.members).sort(), ['ann', 'bob']);
assert.equal(room.members.me.id, 'ann');
const news = [];
room.bind('pusher:member_added', (member) => news.push(`+${member.id}`));
room.bind('pusher:member_removed', (member) => news.push(`-${member.id}`));
const second = connect('bob');
await subscribe(second, 'presence-a');
bob.unsubscribe('presence-a');
const cat = connect('cat');
await subscribe(cat, 'presence-a');
const left = next(room, 'pusher:member_removed');
second.disconnect();
await left;
assert.deepEqual(news, ['+cat', '-bob']);
const { users } = await (await backend.get({ path: '/channels/presence-a/users' })).json();
assert.deepEqual(users, [{ id: 'ann' }, { id: 'cat' }]);

// A cache.
await backend.trigger('cache-a', 'price', { now: 3 });
const cached = ann.subscribe('cache-a');
assert.deepEqual(await next(cached, 'price'), { now: 3 });
const missed = ann.subscribe('cache-b');
await next(missed, 'pusher:cache_miss');

// Users: their own events, and the end of their connections.
bob.signin();
await bob.user.signinDonePromise;
const note = new Promise((resolve) => { bob.user.bind('note', resolve); });
// The library subscribes by itself, without a promise.
while ((await (await backend.get({ path: '/channels' })).json()).channels['#server-to-user-bob']
  === undefined);
await backend.sendToUser('bob', 'note', { n: 1 });
assert.deepEqual(await note, { n: 1 });
const ended = next(bob.connection, 'disconnected');
await backend.terminateUserConnections('bob');
await ended;

// Errors.
const forbidden = ann.subscribe('private-forbidden');
assert.equal((await next(forbidden, 'pusher:subscription_error')).status, 401);
const stranger = connect('stranger', 'unknown');
const fault = await next(stranger.connection, 'error');
assert.equal(fault.error.data.code, 4001);
assert.notEqual(stranger.connection.state, 'connected');
const liar = new Backend({
  appId: '1', key: 'key-1', secret: 'other', host, port, useTLS,
});
await assert.rejects(liar.trigger('news', 'x', {}), (error) => error.status === 401);

for (const client of [ann, cat, stranger]) client.disconnect();
process.stdout.write('works\n', () => process.exit(0));
