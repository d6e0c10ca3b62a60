// An application over the Node library, which does what its messages say: a script of the tests.
// Prints `listening on PORT`, and then an event in JSON per line. TOKEN is what links present; PORT
// is where it listens; with DIAL, it connects to that URL with the key KEY. SIGTERM drains it.

import { Backend, Reject } from '../../src/web/link/node/seawall-link.mjs';

const print = (event) => console.log(JSON.stringify(event));
const gates = new Map();
const gate = (name) => {
  if (!gates.has(name)) {
    let open;
    gates.set(name, { closed: new Promise((resolve) => { open = resolve; }), open });
  }
  return gates.get(name);
};

const commands = {
  echo: (session, words) => session.send(words.join(' ')),
  throw: () => { throw new Error('as asked'); },
  wait: (session, [name]) => gate(name).closed,
  open: (session, [name]) => gate(name).open(),
  many: (session, [text]) => backend.sendMany(backend.sessions, text),
  manybinary: (session, [text]) => backend.sendMany(backend.sessions, Buffer.from(text)),
  receipt: (session) => {
    session.send('with a receipt', { receipt: true }).then(
      () => print({ event: 'sent', connection: session.connection }),
      () => print({ event: 'unsent', connection: session.connection }));
  },
  state: (session, [value]) => session.setState({ value }),
  json: (session, words) => session.setState(JSON.parse(words.join(' '))),
  close: (session, [code, reason]) => session.close(Number(code), reason),
  slow: (session) => session.send(String(session.isSlow)),
  length: (session, [bytes]) => session.send('x'.repeat(Number(bytes))),
  command: (session, [channel]) => {
    backend.command({ publish: { channel, content: 1 } }).then(
      (result) => print({ event: 'result', result }),
      (error) => print({ event: 'failed', code: error.code ?? 'lost' }));
  },
  join: (session, [channel]) => {
    const of = { connection: session.connection, channel };
    session.join(channel).then(
      () => print({ event: 'joined', ...of, channels: [...session.channels].sort() }),
      (error) => print({ event: 'refused', ...of, code: error.code ?? 'lost' }));
  },
  leave: (session, [channel]) => session.leave(channel),
  channels: (session) => session.send([...session.channels].sort().join(' ')),
  publish: (session, [channel, ...words]) =>
    backend.command({ publish: { channel, content: words.join(' ') } }),
  drain: () => { backend.drain().then(() => print({ event: 'drained' })); },
  stop: () => { backend.close(); },
  who: (session) => {
    const { connection, user, state } = session;
    session.send(JSON.stringify({ connection, user, state, instance }));
  },
  // Sends until the client is known to be slow.
  fill: async (session) => {
    const sent = [];
    let count = 0;
    for (; !session.isSlow; count += 1) {
      sent.push(session.send('x'.repeat(65_536), { receipt: true }));
      // Two are queued behind the one that waits.
      const slow = gate(`slow ${session.connection}`).closed;
      if (sent.length > 2) await Promise.race([sent.shift(), slow]);
    }
    print({ event: 'filled', count });
  },
  flood: (session, [count]) => {
    for (let at = 0; at < Number(count); at += 1) session.send('x'.repeat(65_536));
  },
};

const opened = {
  reject: () => new Reject(403, 'not you'),
  long: () => { throw new Reject(429, `two\nlines ${'x'.repeat(300)}`); },
  silent: () => { throw new Reject(401); },
  throw: () => { throw new Error('as asked'); },
  full: () => ({ user: 'ann', info: { name: 'Ann' }, state: { from: 'open' }, subprotocol: 'x' }),
  ann: () => ({ user: 'ann', state: { from: 'open' } }),
  early: (session) => { session.send('early'); },
  wait: (session) => gate('open').closed,
};

const instance = process.env.INSTANCE ?? 'app-1';
const backend = new Backend({
  open(session, { moved, query, state, user, headers }) {
    print({ event: 'open', connection: session.connection, path: session.path,
      address: session.address, moved, state: state ?? null, user: user ?? null,
      headers: headers ?? null });
    if (query?.startsWith('accept:')) return JSON.parse(query.slice('accept:'.length));
    return opened[query]?.(session);
  },
  message(session, data, { binary, redelivered, number }) {
    const text = data.toString();
    print({ event: 'message', connection: session.connection, text, binary, redelivered, number });
    if (binary) return session.send(data);
    const [name, ...words] = text.split(' ');
    return commands[name]?.(session, words);
  },
  close: (session, { code, reason, moved }) =>
    print({ event: 'close', connection: session.connection, code, reason, moved }),
  slow(session, bytes) {
    gate(`slow ${session.connection}`).open();
    print({ event: 'slow', connection: session.connection, bytes });
  },
  ready(session, bytes) {
    gates.delete(`slow ${session.connection}`);
    print({ event: 'ready', connection: session.connection, bytes });
  },
  ask(question, session) {
    if (question.method === 'throw') throw new Error('as asked');
    const sum = question.content.reduce((all, one) => all + one, 0);
    return { content: { sum, connection: session?.connection ?? null } };
  },
  left: (session, channel, reason) =>
    print({ event: 'left', connection: session.connection, channel, reason }),
  drain: () => print({ event: 'drain' }),
}, { token: process.env.TOKEN || undefined, instance });

const { port } = await backend.listen(Number(process.env.PORT ?? 0));
console.log(`listening on ${port}`);
process.once('SIGTERM', () => backend.drain().then(() => process.exit()));
if (process.env.DIAL) await backend.connectTo(process.env.DIAL, process.env.KEY);
