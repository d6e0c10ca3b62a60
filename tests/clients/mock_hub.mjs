// A hub in memory that speaks seawall.v1 well enough to test its client, with faults on demand:
//
//     const hub = await MockHub.start(ws, { pages: "src/web" });
//     hub.fault = (direction, object, connection) => "cut" | "skip" | "twice" | …
//
// `fault` sees every object on its way, `in` or `out`, and may let it pass (nothing), lose it
// (`skip`), double it (`twice`), end the connection before or after it (`cut`, `cut after`), close
// with a code (`[code, reason]`) or fall silent for good (`silent`). Tokens are `user:ttl_s`.
//
// As a program it serves the playground: node mock_hub.mjs PACKAGES PAGES [PORT].

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const TYPES = { js: "text/javascript", css: "text/css", html: "text/html", ts: "text/plain" };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
  + "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

class Channel {
  constructor(name) {
    Object.assign(this, { name, epoch: `e${Math.random()}`, offset: 0, history: [] });
    this.keys = new Map();
    this.members = new Set();
  }
}

class Connection {
  constructor(hub, socket, id) {
    Object.assign(this, { hub, socket, id, user: undefined, silent: false, batch: null });
    this.subscriptions = new Map();
    this.received = [];
    socket.on("message", (data) => this.receive(JSON.parse(data)));
    socket.on("close", () => this.leave());
    socket.on("error", () => {});
    const limits = { message_bytes: hub.messageBytesMax, channels: 100 };
    const ticket = hub.needsToken ? undefined : hub.ticket(this);
    this.send({
      type: "welcome", connection: id, ticket, heartbeat: hub.heartbeatS, limits, server: "mock",
    });
  }

  /** Applies the fault, if there is one; returns how often the object passes. */
  passes(direction, object) {
    if (this.silent || this.gone) return 0;
    const fault = this.hub.fault?.(direction, object, this);
    if (fault === "silent") this.silent = true;
    if (fault === "cut") this.cut();
    if (Array.isArray(fault)) this.close(...fault);
    if (fault === "cut after") {
      queueMicrotask(() => this.cut());
      return 1;
    }
    return fault === "twice" ? 2 : fault ? 0 : 1;
  }

  send(object) {
    for (let left = this.passes("out", object); left > 0; left -= 1) {
      if (this.batch) this.batch.push(JSON.stringify(object));
      else this.socket.send(JSON.stringify(object));
    }
  }

  /** What `call` sends leaves as one frame. */
  together(call) {
    this.batch = [];
    call();
    const text = this.batch.join("\n");
    this.batch = null;
    if (text && !this.gone) this.socket.send(text);
  }

  cut() {
    this.gone = true;
    this.leave();
    this.socket.terminate();
  }

  close(code, reason = "") {
    this.gone = true;
    this.leave();
    this.socket.close(code, reason);
  }

  leave() {
    this.hub.connections.delete(this);
    for (const channel of [...this.subscriptions.keys()]) this.unsubscribe(channel);
  }

  receive(request) {
    this.received.push(request);
    for (let left = this.passes("in", request); left > 0; left -= 1) {
      this.together(() => this.handle(request));
    }
  }

  reply(request, object) {
    this.send({ ...object, id: request.id });
  }

  /** `refusal`: a code, or all fields of the error. */
  refuse(request, refusal, message = refusal) {
    const error = typeof refusal === "string" ? { code: refusal, message } : refusal;
    this.reply(request, { type: "error", ...error });
  }

  handle(request) {
    const refusal = this.hub.refusals.get(`${request.type} ${request.channel ?? ""}`.trim());
    if (refusal) return this.refuse(request, refusal);
    const known = ["auth", "resume", "subscribe", "unsubscribe", "publish", "presence", "history",
      "ping"];
    if (!known.includes(request.type)) return this.refuse(request, "bad_request");
    const isOpen = ["auth", "resume", "ping"].includes(request.type) || !this.hub.needsToken;
    if (!isOpen && !this.user) return this.refuse(request, "unauthorized", "send auth first");
    this[`on_${request.type}`](request);
  }

  on_ping(request) {
    this.reply(request, { type: "pong" });
  }

  on_auth(request) {
    const [user, ttl = "3600"] = String(request.token).split(":");
    if (user === "bad") return this.refuse(request, "unauthorized");
    if (user === "old") return this.refuse(request, "expired");
    this.user = user;
    const ticket = this.hub.ticket(this);
    this.reply(request, { type: "authenticated", user, expires_in: Number(ttl), ticket });
  }

  on_resume(request) {
    const identity = this.hub.tickets.get(request.ticket);
    if (!identity) return this.refuse(request, "expired");
    this.user = identity.user;
    this.identity = identity.identity;
    const old = [...this.hub.connections].find((one) => one.id === identity.connection);
    if (old && old !== this) old.close(4409, "replaced");
    const channels = {};
    const missed = [];
    for (const [name, since] of Object.entries(request.positions)) {
      const refusal = this.hub.refusals.get(`resume ${name}`);
      if (refusal) {
        channels[name] = { error: refusal };
        continue;
      }
      const joined = this.join(name, since);
      channels[name] = joined.reply;
      missed.push(...joined.missed);
    }
    this.reply(request, { type: "resumed", ticket: this.hub.ticket(this), channels });
    missed.forEach((message) => this.send(message));
  }

  /** Makes a member and finds what it missed. */
  join(name, since, presence = since?.presence) {
    const channel = this.hub.channel(name);
    const { epoch, offset } = channel;
    const missed = since ? channel.history.filter((one) => one.offset > since.offset) : [];
    const whole = since && missed.length === offset - since.offset;
    const isKnown = since?.epoch === epoch
      || (since?.offset === 0 && this.hub.starts.has(since.epoch));
    const recovered = Boolean(since) && isKnown && whole;
    channel.members.add(this);
    const already = this.subscriptions.has(name);
    this.subscriptions.set(name, { presence });
    if (!already) this.hub.broadcast(channel, "join", this);
    const reply = { channel: name, epoch, offset, recovered };
    if (this.hub.grants) reply.grant = `grant-${name}`;
    return { reply, missed: recovered ? missed : [] };
  }

  on_subscribe(request) {
    const { channel, since, presence } = request;
    if (!since && this.subscriptions.has(channel)) return this.refuse(request, "conflict");
    const isFirst = !this.subscriptions.has(channel);
    if (this.hub.channelTokens && isFirst && !request.token) {
      return this.refuse(request, "forbidden");
    }
    if (request.token === "old") return this.refuse(request, "expired");
    if (request.token === "wrong") return this.refuse(request, "forbidden");
    const { reply, missed } = this.join(channel, since, presence);
    this.reply(request, { type: "subscribed", ...reply });
    missed.forEach((message) => this.send(message));
  }

  unsubscribe(name) {
    if (!this.subscriptions.delete(name)) return;
    const channel = this.hub.channel(name);
    channel.members.delete(this);
    this.hub.broadcast(channel, "leave", this);
  }

  on_unsubscribe(request) {
    this.unsubscribe(request.channel);
    this.reply(request, { type: "unsubscribed", channel: request.channel });
  }

  on_publish(request) {
    const { key, content, echo = true } = request;
    const channel = this.hub.channel(request.channel);
    const { epoch } = channel;
    const first = channel.keys.get(key);
    const reply = { type: "published", channel: channel.name, epoch };
    const same = JSON.stringify(content);
    if (first && first.content !== same) return this.refuse(request, "conflict");
    if (first) return this.reply(request, { ...reply, offset: first.offset, duplicate: true });
    const from = { connection: this.id, user: this.user };
    const message = this.hub.publish(channel.name, content, from, echo ? null : this);
    channel.keys.set(key, { offset: message.offset, content: same });
    this.reply(request, { ...reply, offset: message.offset });
  }

  on_presence(request) {
    const { members } = this.hub.channel(request.channel);
    const listed = [...members].map((one) => one.member());
    this.reply(request, {
      type: "presence", channel: request.channel, count: listed.length,
      members: listed.slice(0, request.limit),
    });
  }

  on_history(request) {
    const { epoch, offset, history } = this.hub.channel(request.channel);
    const messages = history.filter((one) => one.offset > (request.since?.offset ?? 0));
    if (request.reverse) messages.reverse();
    this.reply(request, {
      type: "history", channel: request.channel, epoch, offset,
      messages: messages.slice(0, request.limit),
    });
  }

  member() {
    return { user: this.user, connection: this.id, info: this.user && { name: this.user } };
  }
}

export class MockHub {
  fault = null;
  heartbeatS = 25;
  messageBytesMax = 65_536;
  historyMax = 1000;
  grants = false;
  /** Epochs of channels before they were used: at offset 0 they count like the current one. */
  starts = new Set();
  channelTokens = false;
  /** Clients without a token are anonymous. */
  needsToken = false;
  /** Errors by request: `subscribe chat:secret` → `forbidden`, or all fields of the error. */
  refusals = new Map();
  channels = new Map();
  connections = new Set();
  /** All that there ever were. */
  accepted = [];
  tickets = new Map();
  ticketsMade = 0;

  static async start({ WebSocketServer }, { pages, prefix = "", port = 0 } = {}) {
    const hub = new MockHub();
    hub.server = createServer((request, response) => {
      hub.page(pages, request.url.replace(prefix, ""), response);
    });
    const accepting = new WebSocketServer({ server: hub.server });
    accepting.on("connection", (socket, request) => {
      hub.lastProtocol = socket.protocol;
      hub.lastUrl = request.url;
      const connection = new Connection(hub, socket, `c${hub.accepted.length + 1}`);
      hub.accepted.push(connection);
      if (!connection.gone) hub.connections.add(connection);
    });
    await new Promise((resolve) => hub.server.listen(port, "127.0.0.1", resolve));
    hub.url = `ws://127.0.0.1:${hub.server.address().port}${prefix}/ws`;
    return hub;
  }

  async stop() {
    this.connections.forEach((one) => one.cut());
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** The newest connection. */
  get last() {
    return this.accepted.at(-1);
  }

  channel(name) {
    if (!this.channels.has(name)) this.channels.set(name, new Channel(name));
    return this.channels.get(name);
  }

  ticket({ id, user }) {
    this.ticketsMade += 1;
    const ticket = `t${this.ticketsMade}`;
    this.tickets.set(ticket, { user, connection: id });
    return ticket;
  }

  publish(name, content, from, except = null) {
    const channel = this.channel(name);
    channel.offset += 1;
    const { offset } = channel;
    const message = { type: "message", channel: name, offset, content, from, time: Date.now() };
    channel.history.push(message);
    while (channel.history.length > this.historyMax) channel.history.shift();
    for (const one of channel.members) if (one !== except) one.send(message);
    return message;
  }

  broadcast(channel, type, about) {
    for (const one of channel.members) {
      if (one !== about && one.subscriptions.get(channel.name)?.presence) {
        one.send({ type, channel: channel.name, member: about.member() });
      }
    }
  }

  async page(folder, url, response) {
    const path = new URL(url, "http://mock").pathname;
    const name = path === "/" ? "index.html" : path.slice(1);
    try {
      if (!folder || name.includes("..")) throw new Error("no page");
      const bytes = await readFile(join(folder, name));
      const type = TYPES[name.split(".").at(-1)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, "content-security-policy": CSP });
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [packages, pages, port] = process.argv.slice(2);
  const hub = await MockHub.start(createRequire(`${packages}/`)("ws"), { pages, port });
  console.log(hub.url.replace("ws:", "http:").replace("/ws", "/"));
}
