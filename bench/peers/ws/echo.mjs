// Echo on npm ws: what most Node servers run on. One argument: the ADDR:PORT to listen on.
import { createRequire } from 'node:module';

// From where scripts/check.sh installs it.
const root = new URL('../../../.cache/node/', import.meta.url);
const { WebSocketServer } = createRequire(root)('ws');

const [host, port] = process.argv[2].split(':');
const server = new WebSocketServer({ host, port: Number(port), backlog: 4096 });
server.on('connection', (socket) => {
  // A peer that leaves without a closing handshake is an error here; it ends its connection alone.
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
