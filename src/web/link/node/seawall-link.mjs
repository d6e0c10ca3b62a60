// @ts-check
/**
 * The application side of Seawall's links: sessions of clients, over the WebSockets between Seawall
 * nodes and this process. This file is the whole library, for Node 18 and newer; Seawall's
 * src/link/LINK.md has the wire format, src/web/link/README.md examples.
 *
 * Messages of a session are handled one after the other, in order; sessions in parallel. A message
 * is acknowledged when its handler's promise resolves: if the process ends before, it is delivered
 * again. `close` is called once for each session that `open` has accepted. All that is written in
 * one turn of the event loop leaves in one WebSocket message. What begins with `_` is internal.
 */

import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { createServer, request as requestPlain } from "node:http";
import { request as requestTls } from "node:https";
import { hostname } from "node:os";

/** The close code of a client whose handler has thrown. */
export const HANDLER_FAILED = 4500;
const FAILED = "the application failed";
const SUBPROTOCOL = "seawall.link.v1";
const HEADER_BYTES = 20;
/** Records are joined into messages of up to this length. */
const MESSAGE_BYTES = 256 * 1024;
const REASON_BYTES_MAX = 123;
/** Sessions in one `many` record. */
const MANY_MAX = 4096;
/** Seawall pings every second: a link without any bytes for so long is lost. */
const SILENCE_SECONDS_MAX = 10;
const KIND = {
  hello: 1, open: 2, accept: 3, reject: 4, text: 5, binary: 6, ack: 7, sent: 8, slow: 9, ready: 10,
  close: 11, state: 12, many: 13, ask: 14, answer: 15, command: 16, result: 17, drain: 18,
  ping: 19, pong: 20, join: 21, leave: 22, joined: 23, left: 24,
};
const FLAG = { moved: 1, redelivered: 2, receipt: 4, binary: 8 };
const OPCODE = { continuation: 0, binary: 2, close: 8, ping: 9, pong: 10 };
const NO_SESSION = Buffer.alloc(10);
const EMPTY = Buffer.alloc(0);

/** Thrown or returned by `open`: the client gets this HTTP status (401, 403, 429 or 503). */
export class Reject extends Error {
  /** @param {number} status @param {string} message one line of up to 200 characters */
  constructor(status, message = "") {
    const line = Buffer.from(message).toString().replace(/\p{Cc}/gu, " ");
    super([...line].slice(0, 200).join(""));
    check([401, 403, 429, 503].includes(status), "a client is rejected with 401, 403, 429 or 503");
    this.status = status;
  }
}

/** What an application has of Seawall: the sessions of its clients, on all links. */
export class Backend {
  #links = new Set();
  #servers = [];
  #tokens;
  #log;
  #isStopping = false;
  /** Sessions that are open, or whose handlers still run. */
  _active = new Set();

  /**
   * @typedef {{ connection: string, address: string, path: string, query?: string, moved: boolean,
   *   headers?: Record<string, string>, subprotocols?: string[], user?: string, info?: any,
   *   state?: any }} Request `moved`: the session was on another link before
   * @param {{
   *   open?: (session: Session, request: Request) => any,
   *   message?: (session: Session, data: string | Buffer,
   *     meta: { binary: boolean, redelivered: boolean, number: number }) => any,
   *   close?: (session: Session, end: { code: number, reason: string, moved: boolean }) => any,
   *   slow?: (session: Session, bytes: number) => any,
   *   ready?: (session: Session, bytes: number) => any,
   *   left?: (session: Session, channel: string, reason: string) => any,
   *   ask?: (question: any, session?: Session) => any,
   *   drain?: () => any,
   * }} handlers each may return a promise
   * @param {{ token?: string | string[], instance?: string, capacity?: number,
   *   log?: { error: (...values: any[]) => void } }} options `token`: what nodes present (of
   *   several, each is valid); `capacity`: the share of sessions, relative to other instances
   */
  constructor(handlers, options = {}) {
    const { token = [], instance = `${hostname()}-${process.pid}`, capacity = 100 } = options;
    this._handlers = handlers;
    this._hello = { instance: instance.slice(0, 128), capacity };
    this.#tokens = [token].flat().map((one) => digest(`Bearer ${one}`));
    this.#log = options.log ?? console;
  }

  /** All open sessions. */
  get sessions() {
    return [...this.#links].flatMap((link) => [...link.sessions.values()]);
  }

  /**
   * Takes links at a path of a server of node:http; upgrades of other paths are for others.
   * @param {import("node:http").Server} server
   */
  attach(server, path = "/seawall") {
    server.on("upgrade", ({ url, headers }, socket, head) => {
      if (url?.split("?")[0] === path) this.#upgrade(headers, socket, head);
      else if (server.listenerCount("upgrade") === 1) refuse(socket, "404 Not Found");
    });
  }

  /** Takes links at a port; resolves with the address once it listens. */
  async listen(port, host = "127.0.0.1", path = "/seawall") {
    const server = createServer((_, response) => response.writeHead(426).end());
    this.#servers.push(server);
    this.attach(server, path);
    await once(server.listen(port, host), "listening");
    return /** @type {import("node:net").AddressInfo} */ (server.address());
  }

  /**
   * Opens a link to a node (`ws://HOST:PORT/v1/link`), where nodes cannot reach this process, and
   * opens it again when it is lost. Resolves with the first.
   * @param {string} url @param {string} apiKey
   */
  async connectTo(url, apiKey) {
    for (let delay = 100; !this.#isStopping; delay = Math.min(delay * 2, 5000)) {
      try {
        const socket = await dial(url, apiKey);
        return this.#run(socket, true, () => setTimeout(() => this.connectTo(url, apiKey), 200));
      } catch (error) {
        this.#log.error(`seawall-link: no link to ${url}:`, error);
      }
      await new Promise((resolve) => setTimeout(resolve, delay * (0.5 + Math.random())));
    }
  }

  /** Sends a message to many sessions, once on each link. */
  sendMany(sessions, data) {
    const [body, isBinary] = encodeData(data);
    const ofLinks = new Map();
    for (const session of sessions) {
      const { _link: link, _key: key } = session;
      link.checkLength(body);
      if (!session.isOpen || session._early) session.send(data);
      else if (ofLinks.has(link)) ofLinks.get(link).push(key);
      else ofLinks.set(link, [key]);
    }
    for (const [link, keys] of ofLinks) link.sendMany(keys, body, isBinary);
  }

  /** Has a node carry out a command of `POST /v1/batch`; rejects with an error with a `code`. */
  command(command) {
    const link = [...this.#links].find((one) => one.isReady);
    if (!link) return quiet(Promise.reject(new Error("there is no link")));
    const body = encodeJson(command);
    return link.commands.add((number) => link.write(KIND.command, 0, NO_SESSION, number, body));
  }

  /** Moves all sessions to other instances; resolves once none is here. Exit then. */
  async drain() {
    this.#isStopping = true;
    for (const link of this.#links) link.write(KIND.drain, 0, NO_SESSION, 0, EMPTY);
    // Sessions that are opened meanwhile are visited as well.
    for (const session of this._active) await session._over;
    await Promise.all([...this.#links].map((link) => link.written()));
  }

  /** Ends all links, and takes no more: sessions continue on other instances. */
  close() {
    this.#isStopping = true;
    for (const server of this.#servers) server.close();
    for (const link of this.#links) link.end(1001, "the backend stops");
  }

  #upgrade(headers, socket, head) {
    const { authorization = "", "sec-websocket-key": key } = headers;
    const offered = (headers["sec-websocket-protocol"] ?? "").split(/\s*,\s*/);
    const known = this.#tokens.filter((one) => timingSafeEqual(one, digest(authorization)));
    socket.on("error", () => {});
    if (this.#tokens.length > 0 && known.length === 0) {
      refuse(socket, "401 Unauthorized", "WWW-Authenticate: Bearer\r\n");
    } else if (this.#isStopping) {
      refuse(socket, "503 Service Unavailable");
    } else if (!key || headers["sec-websocket-version"] !== "13") {
      refuse(socket, "426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n");
    } else if (!offered.includes(SUBPROTOCOL)) {
      refuse(socket, "400 Bad Request");
    } else {
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
        + `Upgrade: websocket\r\nSec-WebSocket-Protocol: ${SUBPROTOCOL}\r\n`
        + `Sec-WebSocket-Accept: ${acceptKey(key)}\r\n\r\n`);
      socket.unshift(head);
      this.#run(socket, false);
    }
  }

  #run(socket, isClient, onEnd = () => {}) {
    const link = new Link(this, socket, isClient);
    this.#links.add(link);
    link.run().then(() => this.#links.delete(link)).then(onEnd);
  }

  /** Runs a handler; logs what it throws, and resolves with what `fail` makes of that. */
  async _try(name, session, run, fail) {
    try {
      return await run(this._handlers[name]?.bind(this._handlers) ?? (() => {}));
    } catch (error) {
      const of = session ? ` of ${session.connection}` : "";
      const isReject = name === "open" && error instanceof Reject;
      if (!isReject) this.#log.error(`seawall-link: the handler ${name}${of} failed:`, error);
      return fail(error);
    }
  }
}

/** One client. Its handlers (open, message, close) run one after the other. */
export class Session {
  _link;
  _key;
  /** The number of the last message received. */
  #number;
  /** Messages that no handler has seen. */
  #inbox = [];
  #wake = () => {};
  /** Why it is over. */
  #end = /** @type {any} */ (undefined);
  #isMoving = false;
  /** Whether the client has left, so that only acknowledgements are awaited. */
  #hasLeft = false;
  /** Records that are written before the client is accepted: they follow then. */
  _early = /** @type {any[] | undefined} */ ([]);
  _receipts = new Awaited();
  /** Their numbers differ from those of other instances, whose answers may come here. */
  #joins = new Awaited(randomBytes(4).readUInt32BE());
  /** The channels that the client is a member of, as Seawall has reported it. */
  channels = /** @type {Set<string>} */ (new Set());
  /** Whether messages can be sent. */
  isOpen = true;
  /** Whether much is queued for this client: send less until `ready` is called. */
  isSlow = false;

  constructor(link, key, number, request) {
    [this._link, this._key, this.#number] = [link, key, number];
    /** The identity of the client's connection, the same wherever the session moves. */
    this.connection = request.connection;
    this.address = request.address;
    this.path = request.path;
    this.subprotocol = request.subprotocol;
    this.user = request.user;
    this.info = request.info;
    this.state = request.state;
    this._over = this.#run(request);
  }

  /**
   * Sends a message: text if it is a string, else binary. Does nothing once the session is over.
   * With `receipt`, returns a promise: it resolves when the client's TCP connection has the bytes,
   * and rejects if the session ends, moves or loses its link before.
   * @param {string | Uint8Array} data @param {{ receipt?: boolean }} options
   * @returns {Promise<void> | undefined}
   */
  send(data, { receipt = false } = {}) {
    const [body, isBinary] = encodeData(data);
    this._link.checkLength(body);
    const kind = isBinary ? KIND.binary : KIND.text;
    if (!receipt) return this.#write(kind, 0, 0, body);
    if (!this.isOpen) return quiet(Promise.reject(new Error("the session is over")));
    return this._receipts.add((number) => this.#write(kind, FLAG.receipt, number, body));
  }

  /** Closes the client's connection, with 1000 or a code from 3000 to 4999. */
  close(code = 1000, reason = "") {
    const isRight = code === 1000 || (Number.isInteger(code) && code >= 3000 && code <= 4999);
    check(isRight, `a backend closes with 1000 or 3000 to 4999, not ${code}`);
    const body = Buffer.from(reason);
    check(body.length <= REASON_BYTES_MAX, "a reason has at most 123 bytes");
    this.#write(KIND.close, 0, code, body);
    this.#finish({ code, reason, moved: false }, true);
  }

  /** Keeps a JSON value of at most 4096 bytes with the session: `state` wherever it moves. */
  setState(value) {
    const body = encodeKept("state", value, 4096);
    this.state = value;
    this.#write(KIND.state, 0, 0, body);
  }

  /**
   * Makes the client a member of a channel: it gets the content of each publication. Resolves once
   * it is one; rejects with an error with a `code` if it cannot be, and without one if the session
   * ends or moves before. In `open`, do not await it: the client joins after it is accepted.
   * @param {string} channel @returns {Promise<void>}
   */
  join(channel) {
    const body = encodeChannel(channel);
    if (!this.isOpen) return quiet(Promise.reject(new Error("the session is over")));
    return this.#joins.add((number) => this.#write(KIND.join, 0, number, body));
  }

  /** Ends the membership of a channel: no publication follows the call of `left`. */
  leave(channel) {
    this.#write(KIND.leave, 0, 0, encodeChannel(channel));
  }

  _joined(channel, number) {
    this.channels.add(channel);
    if (this.#joins.has(number)) this.#joins.take(number).resolve();
  }

  _left({ channel, reason, message }, number) {
    const wasMember = number === 0 && this.channels.delete(channel);
    if (wasMember) this._call("left", channel, reason);
    if (!this.#joins.has(number)) return;
    this.#joins.take(number).reject(Object.assign(new Error(message), { code: reason }));
  }

  _deliver(data, meta) {
    this.#number = (this.#number + 1) >>> 0;
    if (meta.number !== this.#number) throw new WireError("a message is out of sequence");
    // Those behind the beginning of a move are delivered elsewhere.
    if (!this.#isMoving) this.#inbox.push([data, meta]);
    this.#wake();
  }

  /** Seawall moves it: the handler that runs is the last one here. */
  _move() {
    this.#isMoving = true;
    this.#end ??= { code: 0, reason: "moved", moved: true };
    this.#inbox = [];
    this.#wake();
  }

  /** The client has left, and its messages are still handled; or the link is lost. */
  _gone(end) {
    this.#hasLeft ||= this.isOpen && !end.moved;
    this.#finish(end, end.moved);
  }

  _ack(number) {
    if (this.isOpen || this.#hasLeft) this._link.write(KIND.ack, 0, this._key, number, EMPTY);
  }

  #finish(end, isDropping) {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.#end ??= end;
    if (isDropping) this.#inbox = [];
    this._link.sessions.delete(this._key.latin1Slice());
    this._receipts.rejectAll("the session has ended before the message was sent");
    this.#joins.rejectAll("the session has ended before the client was a member");
    this.#wake();
  }

  /** @returns {undefined} */
  #write(kind, flags, number, body) {
    const record = [kind, flags, this._key, number, body];
    if (this.isOpen && this._early) this._early.push(record);
    else if (this.isOpen) this._link.write(...record);
  }

  async #run(request) {
    const { backend } = this._link;
    backend._active.add(this);
    const open = (handler) => this.#open(handler, request);
    if (await backend._try("open", this, open, (error) => this.#reject(error))) {
      while (this.#inbox.length > 0 || !this.#end) {
        const message = this.#inbox.shift();
        if (message) await this.#handle(...message);
        else await new Promise((wake) => { this.#wake = () => wake(undefined); });
      }
      await this._call("close", this.#end);
    }
    if (this.#isMoving) {
      this._link.flush();
      this.#write(KIND.close, FLAG.moved, 0, EMPTY);
      this.#finish(this.#end, true);
    }
    backend._active.delete(this);
  }

  async #handle(data, meta) {
    const isHandled = await this._call("message", data, meta);
    // What a client that has left sent is not to be delivered again.
    if (this.#hasLeft || (isHandled && this.isOpen)) this._link.ack(this, meta.number);
  }

  /** Returns whether the client is accepted; throws if not. */
  async #open(handler, request) {
    const answer = await handler(this, request);
    if (answer instanceof Reject) throw answer;
    const body = encodeAccept(answer ?? {}, request);
    for (const name of ["subprotocol", "user", "info", "state"]) {
      if (answer?.[name] !== undefined) this[name] = answer[name];
    }
    const records = this._early ?? [];
    if (answer || !request.moved) records.unshift([KIND.accept, 0, this._key, 0, body]);
    this._early = undefined;
    if (!this.#hasLeft) for (const record of records) this._link.write(...record);
    return true;
  }

  /** Rejects the client; closes it if it is connected already. */
  #reject(error) {
    const { status, message } = error instanceof Reject ? error : new Reject(503, FAILED);
    const body = encodeJson({ status, message: message || undefined });
    if (this.#hasLeft) this._link.ack(this, this.#number);
    else this._link.write(KIND.reject, 0, this._key, 0, body);
    this.#isMoving = false;
    this.#finish(undefined, true);
  }

  /** Calls a handler; if it throws, closes the client. Resolves with whether it has not. */
  _call(name, ...values) {
    const run = async (handler) => {
      await handler(this, ...values);
      return true;
    };
    return this._link.backend._try(name, this, run, () => this.close(HANDLER_FAILED, FAILED));
  }
}

/** The records of one WebSocket (RFC 6455, without extensions), and its sessions, by their keys. */
class Link {
  sessions = new Map();
  commands = new Awaited();
  isReady = false;
  #socket;
  #isClient;
  #isOver = false;
  #silentSeconds = 0;
  #wake = () => {};
  /** What the next message is made of. */
  #parts = [];
  #bytes = 0;
  #isScheduled = false;
  /** The number to acknowledge at the end of the turn, by session. */
  #acks = new Map();
  #recordBytesMax = MESSAGE_BYTES;

  constructor(backend, socket, isClient) {
    [this.backend, this.#socket, this.#isClient] = [backend, socket, isClient];
    socket.setTimeout(0).setNoDelay(true);
    const wake = () => {
      this.#silentSeconds = 0;
      this.#wake();
    };
    for (const event of ["readable", "end", "error", "close"]) socket.on(event, wake);
    this.write(KIND.hello, 0, NO_SESSION, 1, encodeJson(backend._hello));
  }

  /** Handles records until the link ends. */
  async run() {
    // Counts seconds in which this process read nothing although it could.
    const timer = setInterval(() => {
      if (++this.#silentSeconds > SILENCE_SECONDS_MAX) this.end(1001, "no bytes for 10 s");
    }, 1000).unref();
    try {
      while (!this.#isOver) this.#receive(await this.#readMessage());
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.end(error.code, error.message);
    }
    clearInterval(timer);
  }

  /** Ends the connection, with a close frame. Its sessions continue elsewhere. */
  end(code, reason) {
    if (this.#isOver) return;
    this.flush();
    const body = Buffer.from(`\0\0${reason}`).subarray(0, 2 + REASON_BYTES_MAX);
    body.writeUInt16BE(code, 0);
    this.#send(OPCODE.close, body);
    this.#isOver = true;
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), 2000).unref();
    this.commands.rejectAll(reason);
    for (const session of this.sessions.values()) session._gone({ code: 0, reason, moved: true });
    this.#wake();
  }

  checkLength({ length }) {
    check(length <= this.#recordBytesMax, `a message has at most ${this.#recordBytesMax} bytes`);
  }

  write(kind, flags, key, number, body) {
    const head = Buffer.alloc(HEADER_BYTES);
    head.writeUInt32BE(body.length, 0);
    [head[4], head[5]] = [kind, flags];
    key.copy(head, 6);
    head.writeUInt32BE(number, 16);
    if (this.#bytes + HEADER_BYTES + body.length > MESSAGE_BYTES) this.#sendParts();
    this.#bytes += HEADER_BYTES + body.length;
    this.#parts.push(head, body);
    this.#schedule();
  }

  ack(session, number) {
    this.#acks.set(session, number);
    this.#schedule();
  }

  #schedule() {
    if (!this.#isScheduled) setImmediate(() => this.flush());
    this.#isScheduled = true;
  }

  /** Sends what has been written. */
  flush() {
    for (const [session, number] of this.#acks) session._ack(number);
    this.#acks.clear();
    this.#sendParts();
    this.#isScheduled = false;
  }

  #sendParts() {
    if (this.#bytes > 0) this.#send(OPCODE.binary, Buffer.concat(this.#parts));
    [this.#parts, this.#bytes] = [[], 0];
  }

  /** Resolves when the system has all that was written, or never will. */
  written() {
    this.flush();
    return new Promise((done) => this.#socket.write(EMPTY, () => done(undefined)));
  }

  sendMany(keys, body, isBinary) {
    const [kind, flags] = isBinary ? [KIND.binary, FLAG.binary] : [KIND.text, 0];
    for (let at = 0; at < keys.length; at += MANY_MAX) {
      const some = keys.slice(at, at + MANY_MAX);
      if (some.length * 10 + body.length > this.#recordBytesMax) {
        for (const key of some) this.write(kind, 0, key, 0, body);
      } else {
        this.write(KIND.many, flags, NO_SESSION, some.length, Buffer.concat([...some, body]));
      }
    }
  }

  async #read(count) {
    while (!this.#isOver) {
      const bytes = count === 0 ? EMPTY : this.#socket.read(count);
      if (bytes?.length === count) return bytes;
      if (bytes || this.#socket.readableEnded || this.#socket.destroyed) break;
      await new Promise((wake) => { this.#wake = () => wake(undefined); });
    }
    throw new WireError("the link has ended", 1000);
  }

  async #readMessage() {
    for (let parts = [], bytes = 0;;) {
      const { opcode, isLast, payload } = await this.#readFrame(bytes, parts.length > 0);
      if (opcode === OPCODE.ping) this.#send(OPCODE.pong, payload);
      if (opcode === OPCODE.close) throw new WireError("the link has ended", 1000);
      if (opcode > OPCODE.binary) continue;
      bytes += payload.length;
      parts.push(payload);
      if (isLast) return parts.length === 1 ? payload : Buffer.concat(parts);
    }
  }

  /** Reads a frame, behind so many bytes of its message. */
  async #readFrame(bytes, isLater) {
    const [first, second] = await this.#read(2);
    let length = second & 127;
    if (length === 126) length = (await this.#read(2)).readUInt16BE();
    else if (length === 127) length = Number((await this.#read(8)).readBigUInt64BE());
    const [opcode, isLast, isControl] = [first & 15, first >= 128, (first & 8) !== 0];
    const bytesMax = Math.max(MESSAGE_BYTES, this.#recordBytesMax + HEADER_BYTES);
    if (opcode === 1) throw new WireError("a text message: a link has binary ones only");
    const isWrong = (first & 0x70) !== 0 || second >= 128 === this.#isClient
      || !Object.values(OPCODE).includes(opcode)
      || (isControl ? length > 125 || !isLast : (opcode === OPCODE.continuation) !== isLater);
    if (isWrong) throw new WireError("a frame is reserved, out of order or masked wrongly");
    if (!isControl && bytes + length > bytesMax) throw new WireError("a message is too long", 1009);
    const mask = this.#isClient ? EMPTY : await this.#read(4);
    return { opcode, isLast, payload: applyMask(await this.#read(length), mask) };
  }

  #send(opcode, payload) {
    if (this.#isOver || !this.#socket.writable) return;
    const { length } = payload;
    const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10);
    head[0] = 128 | opcode;
    head[1] = (this.#isClient ? 128 : 0) | (length < 126 ? length : length < 65536 ? 126 : 127);
    if (head.length === 4) head.writeUInt16BE(length, 2);
    if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
    const mask = this.#isClient ? randomBytes(4) : EMPTY;
    this.#socket.cork();
    for (const part of [head, mask, applyMask(payload, mask)]) this.#socket.write(part);
    this.#socket.uncork();
  }

  #receive(message) {
    for (let at = 0; at < message.length;) {
      const rest = message.length - at;
      const length = rest < HEADER_BYTES ? Infinity : HEADER_BYTES + message.readUInt32BE(at);
      if (rest < length) throw new WireError("a record is truncated");
      // A copy: sessions keep it, and must not keep the whole message.
      const key = Buffer.from(message.subarray(at + 6, at + 16));
      const body = message.subarray(at + HEADER_BYTES, at + length);
      this.#record(message[at + 4], message[at + 5], key, message.readUInt32BE(at + 16), body);
      at += length;
    }
  }

  #record(kind, flags, key, number, body) {
    if (!this.isReady) return this.#hello(kind, number, body);
    const session = this.sessions.get(key.latin1Slice());
    const [isBinary, isMoved] = [kind === KIND.binary, (flags & FLAG.moved) !== 0];
    const meta = { binary: isBinary, redelivered: (flags & FLAG.redelivered) !== 0, number };
    switch (kind) {
      case KIND.open: return this.#open(session, isMoved, key, number, body);
      case KIND.text: case KIND.binary:
        return session?._deliver(isBinary ? body : decodeText(body), meta);
      case KIND.sent: return session?._receipts.take(number).resolve();
      case KIND.slow: case KIND.ready:
        if (session) session.isSlow = kind === KIND.slow;
        return void session?._call(kind === KIND.slow ? "slow" : "ready", number);
      case KIND.joined: return session?._joined(decodeText(body), number);
      case KIND.left: return session?._left(decodeJson(body), number);
      case KIND.close: return isMoved ? session?._move() : this.#close(session, number, body);
      case KIND.ask: return void this.#ask(session, key, number, decodeJson(body));
      case KIND.result: return this.#result(number, decodeJson(body));
      case KIND.drain: return void this.backend._try("drain", undefined, (run) => run(), () => {});
      case KIND.ping: return this.write(KIND.pong, 0, NO_SESSION, 0, body);
      case KIND.pong: return undefined;
      default: if (kind >= 1 && kind <= 24) throw new WireError(`kind ${kind} is of backends`);
    }
  }

  #hello(kind, number, body) {
    if (kind !== KIND.hello) throw new WireError("the first record is not hello");
    if (number !== 1) throw new WireError(`version ${number} is not known`);
    this.#recordBytesMax = decodeJson(body)?.limits?.record_bytes_max;
    this.isReady = this.#recordBytesMax > 0;
    if (!this.isReady) throw new WireError("hello has no limits");
  }

  #open(session, moved, key, number, body) {
    const request = decodeJson(body);
    const isRight = !session && typeof request?.connection === "string";
    if (!isRight) throw new WireError("open of an open session, or without a connection");
    const opened = new Session(this, key, number, Object.assign(request, { moved }));
    // Its handler may have closed it.
    if (opened.isOpen) this.sessions.set(key.latin1Slice(), opened);
  }

  #close(session, code, body) {
    const isRight = code >= 1000 && code <= 4999 && body.length <= REASON_BYTES_MAX;
    if (!isRight) throw new WireError("a wrong close code or reason");
    session?._gone({ code, reason: decodeText(body), moved: false });
  }

  async #ask(session, key, number, question) {
    const fail = (code, message) => ({ error: { code, message } });
    const answer = this.backend._handlers.ask
      ? await this.backend._try("ask", session, (ask) => ask(question, session),
        () => fail("internal", FAILED))
      : fail("unknown_method", "the application answers no questions: it has no handler `ask`");
    this.write(KIND.answer, 0, key, number, encodeJson(answer ?? {}));
  }

  #result(number, result) {
    const command = this.commands.take(number);
    const { code, message } = result?.error ?? {};
    if (code) command.reject(Object.assign(new Error(message), { code }));
    else command.resolve(result);
  }
}

/** Promises by number. */
class Awaited {
  #all = new Map();
  #last;

  constructor(last = 0) {
    this.#last = last;
  }

  /** Calls `write` with a new number, and returns the promise that settles it. */
  add(write) {
    // 0 is no number.
    const number = this.#last = (this.#last % 0xffffffff) + 1;
    write(number);
    return quiet(new Promise((resolve, reject) => this.#all.set(number, { resolve, reject })));
  }

  has(number) {
    return this.#all.has(number);
  }

  take(number) {
    const found = this.#all.get(number);
    if (!found) throw new WireError(`nothing awaits number ${number}`);
    this.#all.delete(number);
    return found;
  }

  rejectAll(reason) {
    for (const { reject } of this.#all.values()) reject(new Error(reason));
    this.#all.clear();
  }
}

/** Ends a link with a close code. */
class WireError extends Error {
  constructor(message, code = 1002) {
    super(message);
    this.code = code;
  }
}

/** The promise, whose rejection is no unhandled one where the caller ignores it. */
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}

function check(isRight, reason) {
  if (!isRight) throw new RangeError(reason);
}

function applyMask(bytes, mask) {
  if (mask.length > 0) for (let at = 0; at < bytes.length; at++) bytes[at] ^= mask[at & 3];
  return bytes;
}

const digest = (text) => createHash("sha256").update(text).digest();
const acceptKey = (key) =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

/** Answers an upgrade with a status, and ends the connection. */
function refuse(socket, status, fields = "") {
  socket.end(`HTTP/1.1 ${status}\r\n${fields}Content-Length: 0\r\nConnection: close\r\n\r\n`);
}

/** Upgrades a connection to a URL; resolves with the socket. */
async function dial(url, apiKey) {
  const key = randomBytes(16).toString("base64");
  const headers = {
    "Authorization": `Bearer ${apiKey}`, "Connection": "Upgrade", "Upgrade": "websocket",
    "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": SUBPROTOCOL,
  };
  const send = url.startsWith("wss:") ? requestTls : requestPlain;
  const request = send(url.replace(/^ws/, "http"), { headers, agent: false, timeout: 10_000 });
  const fail = (reason) => request.destroy(new Error(reason));
  request.on("timeout", () => fail("no answer within 10 s"));
  request.on("response", ({ statusCode }) => fail(`the answer is ${statusCode}, not 101`));
  request.end();
  const [{ headers: answer }, socket, head] = await once(request, "upgrade");
  const isRight = answer["sec-websocket-accept"] === acceptKey(key)
    && answer["sec-websocket-protocol"] === SUBPROTOCOL;
  if (!isRight) socket.destroy();
  check(isRight, `the answer is no upgrade to ${SUBPROTOCOL}`);
  socket.unshift(head);
  return socket;
}

/** Decodes a text of Seawall's; a wrong one ends the link. */
function decodeText(bytes, parse = (text) => text) {
  try {
    return parse(utf8.decode(bytes));
  } catch {
    throw new WireError("a body is not UTF-8, or not JSON");
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const decodeJson = (bytes) => decodeText(bytes, JSON.parse);
const encodeJson = (value) => Buffer.from(JSON.stringify(value));

/** @returns {[Buffer, boolean]} the bytes of a message, and whether it is binary */
function encodeData(data) {
  if (typeof data === "string") return [Buffer.from(data), false];
  if (!(data instanceof Uint8Array)) throw new TypeError("data is a string or a Uint8Array");
  return [Buffer.from(data.buffer, data.byteOffset, data.byteLength), true];
}

function encodeChannel(channel) {
  if (typeof channel !== "string") throw new TypeError("a channel is named by a string");
  return Buffer.from(channel);
}

/** Encodes JSON that Seawall keeps: for wrong JSON it ends the link, and so other sessions. */
function encodeKept(name, value, bytesMax, levelsMax = 64) {
  const text = JSON.stringify(value ?? null);
  const body = Buffer.from(text);
  check(body.length <= bytesMax, `${name} has at most ${bytesMax} bytes`);
  // JSON.stringify escapes surrogates only where their other half is missing.
  check(!/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(text), `${name} has half a surrogate pair`);
  check(countLevels(JSON.parse(text)) <= levelsMax, `${name} has at most ${levelsMax} levels`);
  return body;
}

function countLevels(value) {
  const inner = value && typeof value === "object" ? Object.values(value) : undefined;
  return inner ? 1 + Math.max(0, ...inner.map(countLevels)) : 0;
}

/** Encodes what `open` accepts. */
function encodeAccept(answer, { moved, subprotocols = [] }) {
  const { user, info, state, subprotocol, expires_in_s: seconds } = answer;
  const length = typeof user === "string" ? Buffer.byteLength(user) : 0;
  check(user == null || (length >= 1 && length <= 256), "user is text of 1 to 256 bytes");
  const isOffered = !subprotocol || moved || subprotocols.includes(subprotocol);
  check(isOffered, "subprotocol is one that the client offers");
  const isTime = Number.isInteger(seconds) && seconds >= 1 && seconds <= 31_536_000;
  check(seconds == null || isTime, "expires_in_s is an integer from 1 to 31536000");
  encodeKept("info", info, 1024);
  encodeKept("state", state, 4096);
  return encodeKept("accept", answer, 64 * 1024, 65);
}
