// A chat with rooms, for a gateway route: `node chat.mjs`, with PORT and LINK_TOKEN if need be.
//
// The room is the path's last part (`/chat/lobby?name=ann`), or the one of the last `/room NAME`.

import { Backend, Reject } from "./seawall-link.mjs";

/** @type {Map<string, Set<import("./seawall-link.mjs").Session>>} */
const rooms = new Map();
const isWord = (text) => /^[\p{L}\p{N}_-]{1,64}$/u.test(text);
const say = (room, event) => backend.sendMany(rooms.get(room) ?? [], JSON.stringify(event));

function enter(session, room) {
  if (!rooms.has(room)) rooms.set(room, new Set());
  rooms.get(room).add(session);
}

function leave(session, { name, room }) {
  rooms.get(room)?.delete(session);
  if (rooms.get(room)?.size === 0) rooms.delete(room);
  return { left: name };
}

const backend = new Backend({
  // A session that was moved here, by a deploy or a failure, brings its state along.
  open(session, { query, moved }) {
    const name = new URLSearchParams(query).get("name") ?? "";
    const state = session.state ?? { name, room: session.path.split("/").at(-1) };
    // Before anything is changed: a client that is rejected gets no `close`.
    if (!isWord(state.name)) return new Reject(401, "add ?name=YOURS to the URL, 1 to 64 letters");
    if (!isWord(state.room)) return new Reject(403, "the path ends with a room of 1 to 64 letters");
    enter(session, state.room);
    if (!moved) say(state.room, { joined: state.name });
    return { user: state.name, state };
  },
  // A message may be delivered again after a failure: `id` lets clients drop repeats.
  message(session, text, { number }) {
    const { name, room } = session.state;
    const next = /^\/room (\S+)$/.exec(text)?.[1];
    if (typeof text !== "string") return session.close(4003, "send text");
    if (!next || !isWord(next)) return say(room, { id: `${session.connection}/${number}`, from: name, text });
    say(room, leave(session, session.state));
    session.setState({ name, room: next });
    enter(session, next);
    return say(next, { joined: name });
  },
  close(session, { moved }) {
    const left = leave(session, session.state);
    if (!moved) say(session.state.room, left);
  },
}, { token: process.env.LINK_TOKEN });

const { port } = await backend.listen(Number(process.env.PORT ?? 8000));
console.log(`listening on ${port}`);
process.once("SIGTERM", () => backend.drain().then(() => process.exit()));
