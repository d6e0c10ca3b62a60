// @ts-check
/**
 * Links and sessions: the records of one WebSocket, and the queue of one client.
 *
 * A session's steps (open, messages, close) run one after the other. It has ended when `isOpen` is
 * false: then it writes nothing more, and its handlers that still run are the last ones.
 */

import {
  Reject, STATE_BYTES_MAX, decodeJson, decodeText, encodeAccept, encodeData, encodeJson, encodeKept,
} from "./body.mjs";
import { Wire, WireError } from "./websocket.mjs";

const VERSION = 1;
/** Records are joined into messages of up to this length. */
const MESSAGE_BYTES = 256 * 1024;
const HEADER_BYTES = 20;
const REASON_BYTES_MAX = 123;
/** Sessions in one `many` record. */
const MANY_MAX = 4096;
/** The close code of a client whose handler has thrown. */
export const HANDLER_FAILED = 4500;

export const KIND = {
  hello: 1, open: 2, accept: 3, reject: 4, text: 5, binary: 6, ack: 7, sent: 8, slow: 9, ready: 10,
  close: 11, state: 12, many: 13, ask: 14, answer: 15, command: 16, result: 17, drain: 18,
  ping: 19, pong: 20,
};
const FLAG = { moved: 1, redelivered: 2, receipt: 4, binary: 8 };
export const NO_SESSION = Buffer.alloc(10);
export const EMPTY = Buffer.alloc(0);
const FAILED = "the application failed";

/** The promise, whose rejection is no unhandled one where the caller ignores it. */
export const handled = (promise) => {
  promise.catch(() => {});
  return promise;
};

/** Promises by number. */
class Awaited {
  #all = new Map();
  #last = 0;

  /** Calls `write` with a new number, and returns the promise that settles it. */
  add(write) {
    this.#last = (this.#last + 1) >>> 0;
    const number = this.#last;
    write(number);
    return handled(new Promise((resolve, reject) => this.#all.set(number, { resolve, reject })));
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

/** One client. */
export class Session {
  #link;
  #key;
  /** Steps that run one after the other. */
  #queue = [];
  #isRunning = false;
  /** Records that are written before the client is accepted: they follow then. */
  #early = [];
  #isAccepted = false;
  /** Whether Seawall knows that it is over. */
  #isGone = false;
  /** Whether the client has left, so that only acknowledgements are awaited. */
  #hasLeft = false;
  #isFinished = false;
  #receipts = new Awaited();
  /** The number of the last message received. */
  #number;
  /** Whether messages can be sent. */
  isOpen = true;
  /** Whether much is queued for this client: send less until `ready` is called. */
  isSlow = false;

  /** @internal */
  constructor(link, key, number, request) {
    this.#link = link;
    this.#key = key;
    this.#number = number;
    /** The identity of the client's connection, the same wherever the session moves. */
    this.connection = request.connection;
    this.address = request.address;
    this.path = request.path;
    this.subprotocol = request.subprotocol;
    this.user = request.user;
    this.info = request.info;
    this.state = request.state;
    this.#push(() => this.#open(request));
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
    this.#link.checkLength(body.length);
    const kind = isBinary ? KIND.binary : KIND.text;
    if (!receipt) return this.#write(kind, 0, 0, body);
    if (!this.isOpen) return handled(Promise.reject(new Error("the session is over")));
    return this.#receipts.add((number) => this.#write(kind, FLAG.receipt, number, body));
  }

  /** Closes the client's connection, with 1000 or a code from 3000 to 4999. */
  close(code = 1000, reason = "") {
    if (code !== 1000 && !(Number.isInteger(code) && code >= 3000 && code <= 4999)) {
      throw new RangeError(`a backend closes with 1000 or 3000 to 4999, not ${code}`);
    }
    const body = Buffer.from(reason);
    if (body.length > REASON_BYTES_MAX) throw new RangeError("a reason has at most 123 bytes");
    this.#write(KIND.close, 0, code, body);
    this.#end({ code, reason, moved: false }, true);
  }

  /** Keeps a JSON value of at most 4096 bytes with the session: `state` wherever it moves. */
  setState(value) {
    const body = encodeKept("state", value, STATE_BYTES_MAX);
    this.state = value;
    this.#write(KIND.state, 0, 0, body);
  }

  /** @internal The link and key for a `many` record, unless it has to wait for accept. */
  _target() {
    return this.isOpen && this.#isAccepted ? [this.#link, this.#key] : [];
  }

  /** @internal A message of the client. */
  _deliver(data, binary, redelivered, number) {
    if (number !== ((this.#number + 1) >>> 0)) throw new WireError("a message is out of sequence");
    this.#number = number;
    this.#push(async () => {
      const isHandled = await this.#call("message", data, { binary, redelivered, number });
      // What a client that has left sent is not to be delivered again.
      if (this.#hasLeft || (isHandled && this.isOpen)) this.#link.ack(this, number);
    }, true);
  }

  /** @internal */
  _sent(number) {
    this.#receipts.take(number).resolve();
  }

  /** @internal */
  _setSlow(isSlow, bytes) {
    this.isSlow = isSlow;
    this.#call(isSlow ? "slow" : "ready", bytes);
  }

  /** @internal Seawall moves it: messages that no handler has seen are delivered elsewhere. */
  _move() {
    this.#dropMessages();
    this.#push(async () => {
      await this.#finish({ code: 0, reason: "moved", moved: true });
      this.#link.flushAck(this);
      this.#write(KIND.close, FLAG.moved, 0, EMPTY);
      this.#end();
    });
  }

  /** @internal The client has left, or the link is lost. */
  _gone(event) {
    if (!this.isOpen) return;
    this.#isGone = true;
    this.#hasLeft = !event.moved;
    // Messages of a client that has left are still handled.
    this.#end(event, event.moved);
  }

  #end(event, isDropping = false) {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.#link.forget(this.#key, this);
    this.#receipts.rejectAll("the session has ended before the message was sent");
    if (isDropping) this.#dropMessages();
    if (event) this.#push(() => this.#finish(event));
  }

  /** @internal */
  _ack(number) {
    if (this.isOpen || this.#hasLeft) this.#link.write(KIND.ack, 0, this.#key, number, EMPTY);
  }

  /** @returns {undefined} */
  #write(kind, flags, number, body) {
    if (!this.isOpen) return;
    if (this.#isAccepted) this.#link.write(kind, flags, this.#key, number, body);
    else this.#early.push([kind, flags, this.#key, number, body]);
  }

  #dropMessages() {
    this.#queue = this.#queue.filter((step) => !step.isMessage);
  }

  #push(run, isMessage = false) {
    this.#queue.push({ run, isMessage });
    if (!this.#isRunning) this.#run();
  }

  async #run() {
    this.#isRunning = true;
    for (let step = this.#queue.shift(); step; step = this.#queue.shift()) await step.run();
    this.#isRunning = false;
    if (!this.isOpen) this.#link.backend._finished(this);
  }

  async #open(request) {
    try {
      const answer = await this.#link.backend.handlers.open?.(this, request);
      if (answer instanceof Reject) throw answer;
      const body = encodeAccept(answer ?? {}, request);
      for (const name of ["subprotocol", "user", "info", "state"]) {
        if (answer?.[name] !== undefined) this[name] = answer[name];
      }
      this.#isAccepted = true;
      if (this.#isGone) return;
      if (answer || !request.moved) this.#link.write(KIND.accept, 0, this.#key, 0, body);
      for (const record of this.#early) this.#link.write(...record);
    } catch (error) {
      this.#isFinished = true;
      const isReject = error instanceof Reject;
      if (!isReject) this.#link.backend._report("open", this, error);
      if (!this.#isGone) this.#refuse(request, isReject ? error : new Reject(503, FAILED));
      if (this.#hasLeft) this.#link.ack(this, this.#number);
      this.#end(undefined, true);
    }
  }

  /** A client that was moved here has been accepted before: it can only be closed. */
  #refuse({ moved }, { status, message }) {
    const [kind, number, body] = moved
      ? [KIND.close, status === 503 ? HANDLER_FAILED : 4403, EMPTY]
      : [KIND.reject, 0, encodeJson({ status, message: message || undefined })];
    this.#link.write(kind, 0, this.#key, number, body);
  }

  /** Calls a handler; if it throws, closes the client. Returns whether it has not. */
  async #call(name, ...values) {
    try {
      await this.#link.backend.handlers[name]?.(this, ...values);
      return true;
    } catch (error) {
      this.#link.backend._report(name, this, error);
      this.close(HANDLER_FAILED, FAILED);
      return false;
    }
  }

  /** Calls the close handler, once. */
  async #finish(event) {
    if (this.#isFinished) return;
    this.#isFinished = true;
    try {
      await this.#link.backend.handlers.close?.(this, event);
    } catch (error) {
      this.#link.backend._report("close", this, error);
    }
  }
}

/** The records of one WebSocket, and its sessions. */
export class Link {
  sessions = new Map();
  #records = [];
  #isScheduled = false;
  #acks = new Map();
  #commands = new Awaited();
  #recordBytesMax = MESSAGE_BYTES;
  #ended;
  isReady = false;
  ended = new Promise((resolve) => {
    this.#ended = resolve;
  });

  constructor(backend, connection) {
    this.backend = backend;
    this.wire = new Wire(
      connection, (message) => this.#receive(message), (reason) => this.#end(reason));
    this.write(KIND.hello, 0, NO_SESSION, VERSION, encodeJson(backend.hello));
  }

  checkLength(length) {
    if (length <= this.#recordBytesMax) return;
    throw new RangeError(`a message has at most ${this.#recordBytesMax} bytes`);
  }

  write(kind, flags, key, number, body) {
    const head = Buffer.alloc(HEADER_BYTES);
    head.writeUInt32BE(body.length, 0);
    head[4] = kind;
    head[5] = flags;
    key.copy(head, 6);
    head.writeUInt32BE(number, 16);
    this.#records.push([head, body]);
    this.#schedule();
  }

  /** Acknowledges at the end of the turn. */
  ack(session, number) {
    this.#acks.set(session, number);
    this.#schedule();
  }

  flushAck(session) {
    if (this.#acks.has(session)) session._ack(this.#acks.get(session));
    this.#acks.delete(session);
  }

  #schedule() {
    if (!this.#isScheduled) setImmediate(() => this.flush());
    this.#isScheduled = true;
  }

  /** Sends what has been written; `done` is called when the system has all of it. */
  flush(done) {
    for (const session of this.#acks.keys()) this.flushAck(session);
    const records = this.#records;
    this.#records = [];
    this.#isScheduled = false;
    let [joined, bytes] = [[], 0];
    for (const [head, body] of records) {
      const length = HEADER_BYTES + body.length;
      if (bytes > 0 && bytes + length > MESSAGE_BYTES) {
        this.wire.send(joined);
        [joined, bytes] = [[], 0];
      }
      joined.push(head, body);
      bytes += length;
    }
    if (bytes > 0) this.wire.send(joined);
    if (done) this.wire.awaitWritten(done);
  }

  sendMany(keys, body, isBinary) {
    for (let at = 0; at < keys.length; at += MANY_MAX) {
      const some = keys.slice(at, at + MANY_MAX);
      if (some.length * 10 + body.length <= this.#recordBytesMax) {
        const all = Buffer.concat([...some, body]);
        this.write(KIND.many, isBinary ? FLAG.binary : 0, NO_SESSION, some.length, all);
      } else {
        for (const key of some) this.write(isBinary ? KIND.binary : KIND.text, 0, key, 0, body);
      }
    }
  }

  command(command) {
    const body = encodeJson(command);
    return this.#commands.add(
      (number) => this.write(KIND.command, 0, NO_SESSION, number, body));
  }

  forget(key, session) {
    const name = key.latin1Slice();
    if (this.sessions.get(name) === session) this.sessions.delete(name);
  }

  #end(reason) {
    this.#commands.rejectAll(reason);
    for (const session of [...this.sessions.values()]) {
      session._gone({ code: 0, reason, moved: true });
    }
    this.backend._unlinked(this, reason);
    this.#ended();
  }

  #receive(message) {
    for (let at = 0; at < message.length;) {
      const rest = message.length - at;
      const length = rest < HEADER_BYTES ? Infinity : HEADER_BYTES + message.readUInt32BE(at);
      if (rest < length) throw new WireError("a record is truncated");
      this.#record({
        kind: message[at + 4],
        flags: message[at + 5],
        key: message.subarray(at + 6, at + 16),
        number: message.readUInt32BE(at + 16),
        body: message.subarray(at + HEADER_BYTES, at + length),
      });
      at += length;
    }
  }

  #record({ kind, flags, key, number, body }) {
    if (!this.isReady) return this.#hello(kind, number, body);
    const session = this.sessions.get(key.latin1Slice());
    const isBinary = kind === KIND.binary;
    switch (kind) {
      case KIND.open: return this.#open(session, flags, Buffer.from(key), number, body);
      case KIND.text:
      case KIND.binary: return session?._deliver(
        isBinary ? body : decodeText(body), isBinary, (flags & FLAG.redelivered) !== 0, number);
      case KIND.sent: return session?._sent(number);
      case KIND.slow:
      case KIND.ready: return session?._setSlow(kind === KIND.slow, number);
      case KIND.close: return this.#close(session, flags, number, body);
      case KIND.ask: return void this.#ask(session, Buffer.from(key), number, decodeJson(body));
      case KIND.result: return this.#result(number, decodeJson(body));
      case KIND.drain: return this.backend._drained();
      case KIND.ping: return this.write(KIND.pong, 0, NO_SESSION, 0, body);
      case KIND.pong: return undefined;
      default: if (kind >= 1 && kind <= 20) throw new WireError(`kind ${kind} is of backends`);
    }
  }

  #hello(kind, number, body) {
    if (kind !== KIND.hello) throw new WireError("the first record is not hello");
    if (number !== VERSION) throw new WireError(`version ${number} is not known`);
    const bytes = decodeJson(body)?.limits?.record_bytes_max;
    if (!Number.isInteger(bytes) || bytes < 1) throw new WireError("hello has no limits");
    this.#recordBytesMax = bytes;
    this.wire.bytesMax = Math.max(MESSAGE_BYTES, bytes + HEADER_BYTES);
    this.isReady = true;
  }

  #open(session, flags, key, number, body) {
    if (session) throw new WireError("open of a session that is open");
    const request = decodeJson(body);
    if (typeof request?.connection !== "string") throw new WireError("open has no connection");
    request.moved = (flags & FLAG.moved) !== 0;
    const opened = new Session(this, key, number, request);
    if (opened.isOpen) this.sessions.set(key.latin1Slice(), opened);
    this.backend._opened(opened);
  }

  #close(session, flags, code, body) {
    if (flags & FLAG.moved) return session?._move();
    const isRight = code >= 1000 && code <= 4999 && body.length <= REASON_BYTES_MAX;
    if (!isRight) throw new WireError("a wrong close code or reason");
    return session?._gone({ code, reason: decodeText(body), moved: false });
  }

  async #ask(session, key, number, question) {
    let answer = { error: { code: "no_handler", message: "the application has no handler" } };
    const { ask } = this.backend.handlers;
    try {
      if (ask) answer = await this.backend.handlers.ask(question, session);
      this.write(KIND.answer, 0, key, number, encodeJson(answer ?? {}));
    } catch (error) {
      this.backend._report("ask", session, error);
      answer = { error: { code: "internal", message: FAILED } };
      this.write(KIND.answer, 0, key, number, encodeJson(answer));
    }
  }

  #result(number, result) {
    const command = this.#commands.take(number);
    const { code, message } = result?.error ?? {};
    if (code) command.reject(Object.assign(new Error(message), { code }));
    else command.resolve(result);
  }
}
