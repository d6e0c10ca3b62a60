// @ts-check
/**
 * The client of Seawall's protocol `seawall.v1`: channels that survive a lost connection.
 *
 *     import { Seawall } from "/seawall.js";
 *     const sw = new Seawall("wss://example.com/ws", { token: () => fetchToken() });
 *     const sub = sw.subscribe("chat:lobby", { presence: true });
 *     sub.on("message", ({ content }) => show(content));
 *     sw.connect();
 *     await sub.publish({ text: "hello" });
 *
 * What it promises: the messages of a channel come in order and each once, or a `gap` event tells
 * which are missing; a publish is resolved when it is in the channel's log, and repeated with the
 * same key until then. It has no dependencies and runs in browsers, in workers and in Node (there
 * with `{ WebSocket }` of the package `ws`, where there is no global one).
 *
 * How it is built: `Seawall` owns one `Link` (a socket and the requests bound to it) at a time and
 * replaces it when it is lost. Subscriptions and publishes belong to `Seawall` and outlive links.
 * Answers are handled in the turn in which they arrive: a frame may hold an answer and the messages
 * that follow from it.
 */

const PROTOCOL = "seawall.v1";
/** Close codes after which trying again makes no sense: unauthorised, forbidden, replaced. */
const FINAL_CODES = new Map([[4401, "unauthorized"], [4403, "forbidden"], [4409, "conflict"]]);
const EXPIRED_CODE = 4410;
/** Queue full, rate limit: the server has asked for calm. */
const CALM_CODES = [4413, 4429];
/** A connection that held for this long has worked: the next loss starts from the first delay. */
const STABLE_MS = 5000;
/** The server forgets keys after five minutes: a repeat must come before. */
const KEY_AGE_MAX_MS = 280_000;
const ITERATOR_MESSAGES_MAX = 10_000;
const TIMER_MS_MAX = 0x7fff_ffff;
/** What may work when it is tried again. */
const PASSING_ERRORS = ["rate_limited", "internal", "timeout"];

/** An error with the protocol's `code`, or one of the client's: `closed timeout disconnected`. */
export class SeawallError extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.name = "SeawallError";
    this.code = code;
  }
}

/** Listeners by event. A listener that throws is reported, and disturbs nothing else. */
class Events {
  #listeners = new Map();

  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
    return this;
  }

  once(event, listener) {
    const once = (value) => {
      this.off(event, once);
      listener(value);
    };
    return this.on(event, once);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
    return this;
  }

  /** @internal */
  _emit(event, value) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        if (typeof globalThis.reportError === "function") globalThis.reportError(error);
        else queueMicrotask(() => { throw error; });
      }
    }
  }
}

/** A promise with its ends, which nobody needs to watch. */
function deferred() {
  let ends;
  const promise = new Promise((resolve, reject) => { ends = { resolve, reject }; });
  promise.catch(() => {});
  return { promise, ...ends };
}

/** Calls `then` with a value or what a function gives for it: at once where that is possible. */
function withValue(source, then, failed) {
  if (typeof source !== "function") return then(source);
  Promise.resolve().then(source).then(then, failed);
}

/** One channel's messages; made by `Seawall.subscribe`. */
export class Subscription extends Events {
  #client;
  #ready = deferred();
  #position;
  #offsetBefore = null;
  #head = 0;
  #live = false;
  #ended = false;
  /** Offsets of publishes of our own that do not come back. */
  #own = new Set();
  #readers = new Set();

  constructor(client, channel, options) {
    super();
    this.#client = client;
    this.channel = channel;
    this.options = options;
    this.ready = this.#ready.promise;
    this.#position = options.since ? { ...options.since } : null;
    /** @internal */
    this._grant = undefined;
    /** @internal */
    this._attempts = 0;
  }

  /** The last message delivered: `{epoch, offset}`; `null` before the first `subscribed`. */
  get position() {
    return this.#position && { ...this.#position };
  }

  /** Whether live messages flow. */
  get live() {
    return this.#live;
  }

  publish(content, options) {
    return this.#client.publish(this.channel, content, options);
  }

  presence(options) {
    return this.#client.presence(this.channel, options);
  }

  history(options) {
    return this.#client.history(this.channel, options);
  }

  unsubscribe() {
    return this.#client._unsubscribe(this);
  }

  /** The messages from now on; ends with the subscription. */
  [Symbol.asyncIterator]() {
    const reader = { messages: [], waiting: [], error: null };
    const end = { value: undefined, done: true };
    this.#readers.add(reader);
    return {
      next: async () => {
        if (reader.messages.length) return { value: reader.messages.shift(), done: false };
        if (reader.error) throw reader.error;
        if (this.#ended || !this.#readers.has(reader)) return end;
        return new Promise((resolve) => reader.waiting.push(resolve));
      },
      return: async () => {
        this.#readers.delete(reader);
        reader.waiting.splice(0).forEach((resolve) => resolve(end));
        return end;
      },
      [Symbol.asyncIterator]() { return this; },
    };
  }

  /** @internal The connection or the place is lost: nothing counts until accepted. */
  _suspend() {
    this.#live = false;
    this.#offsetBefore = this.#position && { ...this.#position };
  }

  /** @internal What the server said to `subscribe` or `resume`. */
  _accept(reply) {
    const { epoch, offset, recovered = false, presence } = reply;
    const from = this.#offsetBefore;
    const lost = from !== null && !recovered;
    if (from === null || lost) {
      this.#position = { epoch, offset };
      this.#own.clear();
    }
    if (reply.grant !== undefined) this._grant = reply.grant;
    this.#head = offset;
    this.#live = true;
    this._attempts = 0;
    if (lost) this._emit("gap", { channel: this.channel, from, to: { epoch, offset } });
    this._emit("subscribed", { channel: this.channel, epoch, offset, recovered, presence });
    this.#ready.resolve({ epoch, offset, recovered, presence });
  }

  /** @internal Returns false if something is missing before this message. */
  _message({ offset, prev = offset - 1, content, from, time }) {
    if (!this.#live || !this.#position) return true;
    this.#passOwn();
    const { epoch, offset: last } = this.#position;
    if (offset <= last) return true;
    if (prev > last) return false;
    this.#position.offset = offset;
    if (this.#own.delete(offset)) return true;
    const recovered = offset <= this.#head;
    this.#deliver({ channel: this.channel, epoch, offset, content, from, time, recovered });
    return true;
  }

  /** @internal A publish of ours that will not come back stands at this position. */
  _skip({ epoch, offset }) {
    if (!this.#position || epoch !== this.#position.epoch) return;
    if (offset > this.#position.offset) this.#own.add(offset);
    if (this.#live) this.#passOwn();
  }

  #passOwn() {
    while (this.#own.delete(this.#position.offset + 1)) this.#position.offset += 1;
  }

  #deliver(message) {
    for (const reader of this.#readers) {
      if (reader.waiting.length) {
        reader.waiting.shift()({ value: message, done: false });
      } else if (reader.messages.length < ITERATOR_MESSAGES_MAX) {
        reader.messages.push(message);
      } else {
        const text = `${ITERATOR_MESSAGES_MAX} messages wait to be iterated over: take them faster`;
        reader.error = new SeawallError("limit", text);
        this.#readers.delete(reader);
      }
    }
    this._emit("message", message);
  }

  /** @internal It is over, for the reason given or as wished. */
  _end(error, event) {
    if (this.#ended) return;
    this.#ended = true;
    this.#live = false;
    this.#ready.reject(error ?? new SeawallError("closed", "the subscription has ended"));
    for (const reader of this.#readers) {
      reader.waiting.splice(0).forEach((resolve) => resolve({ value: undefined, done: true }));
    }
    if (error) this._emit("error", error);
    if (event) this._emit(event, { channel: this.channel });
  }
}

/** A socket, and the requests that end with it. */
class Link {
  #asks = new Map();

  constructor(socket, nextId) {
    this.socket = socket;
    this.nextId = nextId;
  }

  send(text) {
    if (this.socket.readyState === 1) this.socket.send(text);
  }

  /** Sends a request; `done(error, reply)` is called with its answer, in the same turn. */
  ask(message, done) {
    const id = this.nextId();
    this.#asks.set(id, done);
    this.send(JSON.stringify({ ...message, id }));
  }

  /** Whether the reply belonged to a request of this link. */
  answer(reply) {
    const done = this.#asks.get(reply.id);
    if (!done) return false;
    this.#asks.delete(reply.id);
    if (reply.type === "error") done(new SeawallError(reply.code, reply.message));
    else done(null, reply);
    return true;
  }

  end(error) {
    const asks = [...this.#asks.values()];
    this.#asks.clear();
    const { socket } = this;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A socket that is closed before it opens reports an error, which is expected here.
    socket.onerror = () => {};
    asks.forEach((done) => done(error));
  }
}

const DEFAULTS = {
  token: undefined,
  WebSocket: undefined,
  minDelayMs: 300,
  maxDelayMs: 30_000,
  queueMax: 100,
  pingIntervalMs: undefined,
  pongTimeoutMs: 5000,
  requestTimeoutMs: 10_000,
  random: () => Math.random(),
  clock: {
    now: () => Date.now(),
    setTimeout: (call, ms) => setTimeout(call, ms),
    clearTimeout: (timer) => clearTimeout(timer),
  },
};

/** A connection to a server that keeps itself up. Options and events: see `seawall.d.ts`. */
export class Seawall extends Events {
  #options;
  #state = "idle";
  #link = null;
  #timers = new Map();
  #subscriptions = new Map();
  /** Publishes and queries by id, in the order in which they were made. */
  #calls = new Map();
  #lastId = 0;
  #keyPrefix = "";
  #ticket = null;
  #expiresAt = Infinity;
  #attempts = 0;
  #openedAt = Infinity;
  #heardAt = 0;
  #intervalMs = 25_000;
  #messageBytesMax = Infinity;
  #retryAfterMs = 0;
  #triedFreshToken = false;
  #connected = deferred();
  #environment = [];

  constructor(url, options = {}) {
    super();
    this.url = url;
    this.#options = { ...DEFAULTS, ...options, clock: { ...DEFAULTS.clock, ...options.clock } };
    const bytes = globalThis.crypto.getRandomValues(new Uint8Array(12));
    this.#keyPrefix = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    /** The server's name for this connection, from `welcome`. */
    this.connection = null;
    /** The token's subject, once authenticated. */
    this.user = null;
  }

  /** `idle connecting open waiting closed` */
  get state() {
    return this.#state;
  }

  /** Connects, and stays connected until `close`. Resolved when open for the first time. */
  connect() {
    if (this.#state === "idle" || this.#state === "closed") {
      if (this.#state === "closed") this.#connected = deferred();
      this.#attempts = 0;
      this.#triedFreshToken = false;
      this.#watchEnvironment();
      this.#dial();
    }
    return this.#connected.promise;
  }

  /** Ends the connection, all subscriptions and all that waits. */
  close(code = 1000, reason = "") {
    this.#finish(new SeawallError("closed", "the client was closed"), { code, reason });
  }

  /**
   * Gives the connection up and makes a new one, at once or after a time; subscriptions recover.
   * @param {{afterMs?: number}} options
   */
  reconnect({ afterMs = 0 } = {}) {
    if (this.#state === "idle" || this.#state === "closed") return void this.connect();
    this.#drop(new SeawallError("disconnected", "reconnecting as asked"));
    this.#wait(afterMs, { code: 0, reason: "asked" });
  }

  /** The subscription of a channel, made if there is none; it takes effect once connected. */
  subscribe(channel, options = {}) {
    const known = this.#subscriptions.get(channel);
    if (known) return known;
    const subscription = new Subscription(this, channel, options);
    this.#subscriptions.set(channel, subscription);
    if (this.#state === "open") this.#subscribe(subscription);
    return subscription;
  }

  /**
   * Publishes; resolved with the position once it is in the channel's log. Waits while there is no
   * connection; past `queueMax` waiting ones, new ones are refused with `limit`.
   */
  publish(channel, content, { echo = true, key } = {}) {
    const text = JSON.stringify(content);
    if (text === undefined) return refused("bad_request", "content is not JSON: give a value");
    if (this.#state !== "open" && this.#calls.size >= this.#options.queueMax) {
      const message = `${this.#calls.size} requests wait for a connection: publish again later`;
      return refused("limit", message);
    }
    const head = { type: "publish", channel, key: key ?? `${this.#keyPrefix}-${this.#lastId + 1}` };
    if (!echo) head.echo = false;
    return this.#call(head, { text, quiet: !echo });
  }

  /** Who is in a channel: `{count, members, next?}`. */
  presence(channel, { limit, after } = {}) {
    return this.#call({ type: "presence", channel, limit, after });
  }

  /** Messages of a channel: `{epoch, offset, messages}`. */
  history(channel, { limit, since, reverse } = {}) {
    return this.#call({ type: "history", channel, limit, since, reverse });
  }

  /** Asks for a pong; resolved with the round trip in milliseconds. */
  async ping() {
    const now = globalThis.performance ? () => performance.now() : this.#options.clock.now;
    let sentAt = 0;
    await this.#call({ type: "ping" }, { sending: () => { sentAt = now(); } });
    return now() - sentAt;
  }

  /** @internal */
  _unsubscribe(subscription) {
    const { channel } = subscription;
    if (this.#subscriptions.get(channel) !== subscription) return Promise.resolve();
    this.#subscriptions.delete(channel);
    const told = deferred();
    if (this.#state === "open") this.#link.ask({ type: "unsubscribe", channel }, told.resolve);
    else told.resolve();
    subscription._end(null, "unsubscribed");
    return told.promise.then(() => {});
  }

  // ---- Calls: publishes and queries, which outlive a connection. ----

  #call(head, { text = null, quiet = false, sending = () => {} } = {}) {
    if (this.#state === "closed") return refused("closed", "the client is closed: connect first");
    const id = ++this.#lastId;
    const { promise, resolve, reject } = deferred();
    const call = { id, head, text, quiet, sending, resolve, reject, sentAt: 0 };
    this.#calls.set(id, call);
    // A query is worth nothing later on; a publish may wait for a connection as long as it takes.
    if (text === null) this.#limit(call);
    if (this.#state === "open") this.#transmit(call);
    return promise;
  }

  #limit(call) {
    const { clock, requestTimeoutMs } = this.#options;
    const late = new SeawallError("timeout", "no answer in time: it may have taken effect or not");
    call.timer ??= clock.setTimeout(() => this.#settle(call, late), requestTimeoutMs);
  }

  #transmit(call) {
    const { id, head, text } = call;
    const now = this.#options.clock.now();
    if (call.sentAt && text !== null && now - call.sentAt > KEY_AGE_MAX_MS) {
      const message = "the connection was away for too long: it may have been published or not";
      return this.#settle(call, new SeawallError("timeout", message));
    }
    let frame = JSON.stringify({ ...head, id });
    if (text !== null) frame = `${frame.slice(0, -1)},"content":${text}}`;
    if (frame.length * 3 > this.#messageBytesMax
        && new TextEncoder().encode(frame).length > this.#messageBytesMax) {
      const message = `the server takes messages of ${this.#messageBytesMax} bytes at most`;
      return this.#settle(call, new SeawallError("too_large", message));
    }
    call.sentAt ||= now;
    this.#limit(call);
    call.sending();
    this.#link.send(frame);
  }

  #settle(call, error, reply) {
    this.#options.clock.clearTimeout(call.timer);
    this.#calls.delete(call.id);
    if (error) return call.reject(error);
    const { type, id, ...answer } = reply;
    if (call.quiet) this.#subscriptions.get(call.head.channel)?._skip(answer);
    call.resolve(answer);
  }

  // ---- The connection: dial, greet, lose, wait. ----

  #dial() {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) {
      const message = "there is no WebSocket here: give the one of the package ws as an option";
      return this.#finish(new SeawallError("bad_request", message));
    }
    this.#become("connecting");
    if (this.#state !== "connecting") return;
    this.#retryAfterMs = 0;
    let socket;
    try {
      socket = new Socket(this.url, [PROTOCOL]);
    } catch (error) {
      return this.#finish(new SeawallError("bad_request", `no connection: ${error.message}`));
    }
    const link = new Link(socket, () => ++this.#lastId);
    this.#link = link;
    socket.onmessage = ({ data }) => this.#frame(link, data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    socket.onerror = () => {};
    this.#set("dial", this.#options.requestTimeoutMs, () => this.#lost(1006, "no welcome in time"));
  }

  /** Gets from `welcome` to `open`: by the last ticket, or else by a token. */
  #greet(link, welcome) {
    this.connection = welcome.connection;
    this.#messageBytesMax = welcome.limits?.message_bytes ?? Infinity;
    this.#intervalMs = this.#options.pingIntervalMs ?? (welcome.heartbeat ?? 25) * 1000;
    this.#subscriptions.forEach((one) => one._suspend());
    if (!this.#ticket) return this.#authenticate(link, welcome.ticket);
    const positions = {};
    for (const [channel, one] of this.#subscriptions) {
      const presence = one.options.presence ? true : undefined;
      if (one.position) positions[channel] = { ...one.position, grant: one._grant, presence };
    }
    link.ask({ type: "resume", ticket: this.#ticket, positions }, (error, reply) => {
      if (link !== this.#link) return;
      if (error) {
        this.#ticket = null;
        return this.#authenticate(link, welcome.ticket);
      }
      this.#ticket = reply.ticket ?? this.#ticket;
      for (const [channel, one] of Object.entries(reply.channels ?? {})) {
        const subscription = this.#subscriptions.get(channel);
        if (one.error) continue;
        if (subscription) subscription._accept(one);
        // It was given up while the answer was on its way.
        else link.ask({ type: "unsubscribe", channel }, () => {});
      }
      this.#opened(link, true);
    });
  }

  #authenticate(link, ticket) {
    const failed = (error) => {
      if (link !== this.#link) return;
      const problem = error instanceof SeawallError
        ? error : new SeawallError("unauthorized", `no token: ${error?.message ?? error}`);
      this._emit("error", problem);
      // The token's source may work again later; a token that was refused will not.
      if (problem !== error) return this.#lost(1006, "no token");
      if (error.code === "expired") return this.#lost(EXPIRED_CODE, error.message);
      if (PASSING_ERRORS.includes(error.code)) return this.#lost(1006, error.message);
      this.#finish(error);
    };
    withValue(this.#options.token, (token) => {
      if (link !== this.#link) return;
      if (!token) {
        this.#ticket = ticket ?? null;
        return this.#opened(link, false);
      }
      link.ask({ type: "auth", token }, (error, reply) => {
        if (link !== this.#link) return;
        if (error) return failed(error);
        this.#authenticated(reply);
        this.#opened(link, false);
      });
    }, failed);
  }

  #authenticated({ user, expires_in: expiresIn, ticket }) {
    this.user = user ?? null;
    this.#ticket = ticket ?? null;
    this.#expiresAt = expiresIn > 0 ? this.#options.clock.now() + expiresIn * 1000 : Infinity;
    this.#refreshIn(expiresIn * 800);
  }

  /** Shows a new token when four fifths of the old one's time are over. */
  #refreshIn(ms) {
    this.#clear("refresh");
    if (typeof this.#options.token !== "function" || !Number.isFinite(this.#expiresAt)) return;
    this.#set("refresh", Math.max(0, ms), () => {
      const link = this.#link;
      if (this.#state !== "open") return;
      const failed = (error) => {
        if (link !== this.#link) return;
        const message = `the token was not refreshed: ${error?.message ?? error}`;
        this._emit("error", new SeawallError(error?.code ?? "expired", message));
        this.#refreshIn(Math.max(1000, (this.#expiresAt - this.#options.clock.now()) / 4));
      };
      withValue(this.#options.token, (token) => {
        if (link !== this.#link) return;
        link.ask({ type: "auth", token }, (error, reply) => {
          if (error) failed(error);
          else this.#authenticated(reply);
        });
      }, failed);
    });
  }

  #opened(link, resumed) {
    this.#clear("dial");
    this.#triedFreshToken = false;
    this.#openedAt = this.#heardAt = this.#options.clock.now();
    this.#become("open", { resumed });
    if (link !== this.#link) return;
    this.#connected.resolve();
    this._emit("open", { connection: this.connection, resumed });
    this.#beat(link);
    if (resumed) this.#refreshIn((this.#expiresAt - this.#options.clock.now()) * 0.8);
    for (const one of this.#subscriptions.values()) if (!one.live) this.#subscribe(one);
    for (const call of [...this.#calls.values()]) if (link === this.#link) this.#transmit(call);
  }

  #drop(error, { code, reason } = {}) {
    const link = this.#link;
    this.#link = null;
    ["dial", "beat", "dead", "refresh", "wait"].forEach((name) => this.#clear(name));
    for (const one of this.#subscriptions.values()) {
      one._suspend();
      this.#clear(`again ${one.channel}`);
    }
    for (const call of this.#calls.values()) {
      if (call.text === null) continue;
      this.#options.clock.clearTimeout(call.timer);
      call.timer = undefined;
    }
    link?.end(error);
    try {
      link?.socket.close(code ?? 4000, reason ?? "");
    } catch {
      // It was closed already.
    }
  }

  /** The connection is gone: decides from the close code what follows. */
  #lost(code, reason) {
    if (this.#state === "closed") return;
    const error = new SeawallError("disconnected", `the connection was lost (${code} ${reason})`);
    const wasOpen = this.#state === "open";
    this.#drop(error);
    const final = FINAL_CODES.get(code);
    if (final) return this.#finish(new SeawallError(final, reason || `closed with ${code}`));
    const { clock, minDelayMs, maxDelayMs, random, token } = this.#options;
    if (wasOpen && clock.now() - this.#openedAt >= STABLE_MS) this.#attempts = 0;
    if (code === EXPIRED_CODE) {
      this.#ticket = null;
      if (typeof token !== "function" || this.#triedFreshToken) {
        return this.#finish(new SeawallError("expired", reason || "the token has expired"));
      }
      this.#triedFreshToken = true;
    }
    const calm = CALM_CODES.includes(code);
    if (calm) this.#attempts = Math.max(this.#attempts, 3);
    const most = Math.min(maxDelayMs, minDelayMs * 2 ** this.#attempts);
    // All of it at random, so that clients that were lost together do not come back together.
    const jitter = calm ? most / 2 + random() * most / 2 : random() * most;
    this.#attempts += 1;
    const delayMs = Math.max(jitter, this.#retryAfterMs);
    this.#wait(delayMs, { code, reason });
  }

  #wait(delayMs, why) {
    this.#set("wait", delayMs, () => this.#dial());
    this.#become("waiting", { ...why, delayMs });
  }

  /** The end, by wish or because trying again makes no sense. */
  #finish(error, close) {
    if (this.#state === "closed") return;
    this.#drop(error, close);
    this.#timers.forEach((_, name) => this.#clear(name));
    this.#environment.splice(0).forEach((stop) => stop());
    this.#ticket = null;
    this.#become("closed", { error });
    if (error.code !== "closed") this._emit("error", error);
    this.#connected.reject(error);
    for (const call of [...this.#calls.values()]) this.#settle(call, error);
    const subscriptions = [...this.#subscriptions.values()];
    this.#subscriptions.clear();
    const cause = error.code === "closed" ? null : error;
    subscriptions.forEach((one) => one._end(cause, "unsubscribed"));
  }

  #become(state, detail = {}) {
    const previous = this.#state;
    this.#state = state;
    this._emit("state", { state, previous, ...detail });
  }

  // ---- Heartbeat, and what the browser tells of the network. ----

  /** Browsers cannot send WebSocket pings: a request of the protocol stands in. */
  #beat(link) {
    this.#set("beat", this.#intervalMs, () => {
      this.#probe();
      if (link === this.#link) this.#beat(link);
    });
  }

  /** Asks for a sign of life; without one in time the connection is dead. */
  #probe() {
    if (this.#state !== "open") return;
    const link = this.#link;
    const askedAt = this.#options.clock.now();
    link.ask({ type: "ping" }, () => {});
    if (this.#timers.has("dead")) return;
    this.#set("dead", this.#options.pongTimeoutMs, () => {
      if (link === this.#link && this.#heardAt <= askedAt) this.#lost(1006, "nothing was heard");
    });
  }

  #watchEnvironment() {
    const watch = (target, event, call) => {
      if (typeof target?.addEventListener !== "function") return;
      target.addEventListener(event, call);
      this.#environment.push(() => target.removeEventListener(event, call));
    };
    const wake = () => {
      if (this.#state === "open") this.#probe();
      else if (this.#state === "waiting" && !this.#retryAfterMs) this.reconnect();
    };
    watch(globalThis, "online", wake);
    watch(globalThis, "offline", () => this.#probe());
    const page = globalThis.document;
    watch(page, "visibilitychange", () => page.visibilityState === "visible" && this.#probe());
  }

  // ---- What the server says. ----

  #frame(link, data) {
    if (link !== this.#link) return;
    this.#heardAt = this.#options.clock.now();
    this.#clear("dead");
    let objects;
    try {
      // Objects in one frame are parted by a line feed, which is never inside one.
      objects = String(data).split("\n").filter(Boolean).map((one) => JSON.parse(one));
    } catch {
      return this.#lost(1002, "the server sent what is not JSON");
    }
    for (const one of objects) if (link === this.#link) this.#object(link, one);
  }

  #object(link, one) {
    if (one.id !== undefined) {
      const call = this.#calls.get(one.id);
      if (!call) return void link.answer(one);
      const error = one.type === "error" ? new SeawallError(one.code, one.message) : null;
      return this.#settle(call, error, one);
    }
    const subscription = this.#subscriptions.get(one.channel);
    switch (one.type) {
      case "welcome": return this.#greet(link, one);
      case "message":
        if (one.channel === undefined) return this._emit("message", one);
        if (subscription && !subscription._message(one)) this.#again(subscription);
        return;
      case "join": case "leave":
        return subscription?._emit(one.type, { channel: one.channel, member: one.member });
      case "gap":
        if (subscription?.live) this.#again(subscription);
        return;
      case "subscribed": return this.#subscribedByServer(one, subscription);
      case "unsubscribed":
        this.#subscriptions.delete(one.channel);
        return subscription?._end(null, "unsubscribed");
      case "goodbye":
        this.#retryAfterMs = one.retry_after_ms ?? 0;
        return this._emit("goodbye", one);
      case "error": return this._emit("error", new SeawallError(one.code, one.message));
    }
  }

  // ---- Subscriptions. ----

  /** Something is missing: starts again behind the last message delivered. */
  #again(subscription) {
    subscription._suspend();
    this.#subscribe(subscription);
  }

  #subscribe(subscription, fresh = false) {
    const link = this.#link;
    const { channel, options } = subscription;
    const current = () => link === this.#link && this.#subscriptions.get(channel) === subscription;
    const failed = (error) => {
      if (!current()) return;
      const renewable = typeof options.token === "function" && !fresh;
      if (renewable && ["expired", "unauthorized"].includes(error.code)) {
        return this.#subscribe(subscription, true);
      }
      if (!(error instanceof SeawallError) || PASSING_ERRORS.includes(error.code)) {
        const { minDelayMs, maxDelayMs, random } = this.#options;
        const most = Math.min(maxDelayMs, minDelayMs * 2 ** ++subscription._attempts);
        const again = () => current() && this.#subscribe(subscription);
        return this.#set(`again ${channel}`, most / 2 + random() * most / 2, again);
      }
      this.#subscriptions.delete(channel);
      subscription._end(error);
    };
    withValue(options.token, (token) => {
      if (!current()) return;
      const since = subscription.position ?? undefined;
      const presence = options.presence ? true : undefined;
      subscription._suspend();
      link.ask({ type: "subscribe", channel, since, presence, token }, (error, reply) => {
        if (error) failed(error);
        else if (current()) subscription._accept(reply);
      });
    }, failed);
  }

  #subscribedByServer(reply, known) {
    const subscription = known ?? new Subscription(this, reply.channel, {});
    this.#subscriptions.set(reply.channel, subscription);
    if (!subscription.live) subscription._accept(reply);
    else subscription._grant = reply.grant ?? subscription._grant;
    if (!known) this._emit("subscription", subscription);
  }

  // ---- Timers by name: setting one replaces it. ----

  #set(name, ms, call) {
    this.#clear(name);
    const fire = () => {
      this.#timers.delete(name);
      call();
    };
    const timer = this.#options.clock.setTimeout(fire, Math.min(ms, TIMER_MS_MAX));
    this.#timers.set(name, timer);
  }

  #clear(name) {
    this.#options.clock.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

function refused(code, message) {
  return Promise.reject(new SeawallError(code, message));
}
