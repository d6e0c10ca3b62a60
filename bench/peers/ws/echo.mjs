// Echo on npm ws: what most Node servers run on. Arguments: the ADDR:PORT to listen on
// [deflate|takeover].
import { createRequire } from 'node:module';

// From where scripts/check.sh installs it.
const root = new URL('../../../.cache/node/', import.meta.url);
const { WebSocketServer } = createRequire(root)('ws');

const [host, port] = process.argv[2].split(':');
const perMessageDeflate = process.argv[3] !== undefined && {
  zlibDeflateOptions: { level: 1 },
  serverNoContextTakeover: process.argv[3] === 'deflate',
  clientNoContextTakeover: true,
  threshold: 0,
};
const server = new WebSocketServer({ host, port: Number(port), backlog: 4096, perMessageDeflate });
server.on('connection', (socket) => {
  // A peer that leaves without a closing handshake is an error here; it ends its connection alone.
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});
