// The backend of an app, with a server library of the Pusher protocol:
//
//     node pusher.mjs PACKAGES KEY SECRET
//
// Prints its port, and then each webhook that it receives: whether it is valid, and its events.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";

const [packages, key, secret] = process.argv.slice(2);
const Pusher = createRequire(`${packages}/`)("pusher");
const pusher = new Pusher({ appId: "1", key, secret, host: "127.0.0.1", useTLS: false });

const server = createServer(async (request, response) => {
  const rawBody = await text(request);
  const webhook = pusher.webhook({ headers: request.headers, rawBody });
  const valid = webhook.isValid();
  const events = valid ? webhook.getEvents() : [];
  const time = valid ? webhook.getTime() : null;
  console.log(JSON.stringify({ valid, events, time }));
  response.writeHead(valid ? 200 : 401).end();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
