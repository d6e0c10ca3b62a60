// @ts-check
/**
 * The client of Seawall's protocol `seawall.v1`: channels that survive a lost connection.
 *
 *     import { Seawall } from "/seawall.js";
 *     const sw = new Seawall("wss://example.com/ws", { token: () => fetchToken() });
 *     const sub = sw.subscribe("chat:lobby", { presence: true });
 *     sub.on("message", ({ content }) => show(content));
 *     await sw.connect();
 *     await sub.publish({ text: "hello" });
 *
 * What it promises: each handle of a channel gets the channel's messages in order and each once, or
 * a `gap` event that names the missing ones. A publish takes effect at most once and resolves when
 * it is in the channel's log. Every promise settles, and a rejection that is not awaited is no
 * unhandled one. Every change of state and every failure is an event with its reason and, where
 * there is one, a remedy.
 *
 * It has no dependencies and runs in browsers, in workers and in Node 20 (there `node.js` finds the
 * WebSocket class: the global one or that of the package `ws`).
 *
 * How it is built: `Seawall` owns one `Link` (a socket and the requests bound to it) at a time and
 * replaces it when it is lost. Channels and publishes belong to `Seawall` and outlive links.
 * Answers are handled in the turn in which they arrive: a frame may hold an answer and the messages
 * that follow from it. Durations are measured with a monotonic clock.
 */

import {
  Events, Link, SeawallError, Timers, deferred, isPassing, rejected, timesOf, withValue,
} from "./seawall/base.js";
import { Channel, Subscription } from "./seawall/channel.js";

export { SeawallError, Subscription };

const PROTOCOL = "seawall.v1";
/** A ticket is offered as a subprotocol: browsers can set no header. */
const TICKET_PREFIX = "seawall.ticket.";
/** Longer ones would not fit into a handshake everywhere. */
const OFFERED_TICKET_MAX = 3000;
const NEEDS_TOKEN = "pass a token as the option `token`";
const NEW_TOKEN = "get a new token, then call connect()";
/** Close codes after which trying again makes no sense. */
const FINAL_CODES = new Map([
  [4401, ["unauthorized", "the server rejected the token", NEW_TOKEN]],
  [4403, ["forbidden", "the server closed this connection for good", "ask its operator why"]],
  [4409, ["conflict", "another connection resumed this one", "use one client for one ticket"]],
]);
const AUTH_TIMEOUT_CODE = 4408;
const EXPIRED_CODE = 4410;
/** Overload, slow consumer, rate limit: the server needs clients to come back late. */
const CALM_CODES = [1013, 4413, 4429];
/** Meanings of HTTP statuses; only Node reports the status. */
const STATUSES = new Map([
  [400, ["bad_request", "check the URL"]],
  [401, ["unauthorized", "check the token in the URL"]],
  [403, ["forbidden", "add this page's origin to `origins` of the server's route"]],
  [404, ["not_found", "check the URL's path; the server's default is /ws"]],
  [426, ["bad_request", "check the URL: this path takes WebSocket upgrades of another kind"]],
]);
const UNREACHABLE = "check that the server runs, the URL and its path, and that `origins` of the "
  + "server's route allow this page";
/** Reconnect delays start over after an authenticated connection has lasted this long. */
const STABLE_MS = 5000;
/** Failed attempts in a row after which an `error` event says why. */
const FAILURES_REPORTED = 3;
/** The delay before a publish is repeated, where the server names none. */
const REPEAT_MS = 1000;
/** The server forgets keys after five minutes: repeats must be sent before. */
const KEY_AGE_MAX_MS = 280_000;

const DEFAULTS = {
  token: undefined,
  WebSocket: undefined,
  minDelayMs: 300,
  maxDelayMs: 30_000,
  queueMax: 100,
  pingIntervalMs: undefined,
  pongTimeoutMs: 5000,
  requestTimeoutMs: 10_000,
  publishTimeoutMs: KEY_AGE_MAX_MS,
  random: () => Math.random(),
  clock: {
    now: () => performance.now(),
    wall: () => Date.now(),
    setTimeout: (call, ms) => setTimeout(call, ms),
    clearTimeout: (timer) => clearTimeout(timer),
  },
};

/** A connection to a server that reconnects by itself. Options and events: see `seawall.d.ts`. */
export class Seawall extends Events {
  #options;
  #state = "idle";
  #link = null;
  #timers;
  #channels = new Map();
  #host;
  /** Publishes and queries by id, in the order in which they were made. */
  #calls = new Map();
  /** Sent publishes without echo among them: sets by channel. */
  #quietCalls = new Map();
  #lastId = 0;
  #keyPrefix = "";
  #ticket = null;
  /** The server takes the ticket in the handshake as well. */
  #offersTicket = false;
  /** The client is authenticated: tickets, rights and delays count only then. */
  #identified = false;
  /** The owner of publish keys; a new identity without a name is a new owner. */
  #owner = "";
  #identities = 0;
  #expiresAt = Infinity;
  #serverAheadMs = 0;
  #attempts = 0;
  #wakes = 0;
  #failures = 0;
  #isOutageReported = false;
  #frames = 0;
  #intervalMs = 25_000;
  #messageBytesMax = Infinity;
  #retryAfterMs = 0;
  /** The delay before the next attempt was chosen by this client, not by the server. */
  #mayWake = false;
  #triedFreshToken = false;
  #connected = deferred();
  #environment = [];
  #engine = "back";
  /** What this connection was told of the engine: each starts with `back`. */
  #toldEngine = "back";

  constructor(url, options = {}) {
    super();
    this.url = url;
    this.#options = { ...DEFAULTS, ...options, clock: { ...DEFAULTS.clock, ...options.clock } };
    this.#timers = new Timers(this.#options.clock);
    const bytes = globalThis.crypto.getRandomValues(new Uint8Array(12));
    this.#keyPrefix = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    this.#host = this.#makeHost();
    /** The server's name for this connection, from `welcome`. */
    this.connection = null;
    /** The token's subject, once authenticated. */
    this.user = null;
  }

  /** `idle connecting open waiting closed` */
  get state() {
    return this.#state;
  }

  /** Whether the engine that the server's nodes share is there: `back`, or `away` for long. */
  get engine() {
    return this.#engine;
  }

  /** Connects, and stays connected until `close`. See `seawall.d.ts` for when this rejects. */
  connect() {
    if (this.#state === "idle" || this.#state === "closed") {
      this.#connected = deferred();
      this.#attempts = this.#wakes = this.#failures = 0;
      this.#isOutageReported = this.#triedFreshToken = false;
      this.#watchEnvironment();
      this.#watchOutage();
      this.#dial();
    }
    return this.#connected.promise;
  }

  /** Ends the connection, all subscriptions and all pending requests. */
  close(code = 1000, reason = "") {
    this.#finish(new SeawallError("closed", "the client was closed"), { code, reason });
  }

  /**
   * Replaces the connection, at once or after a delay; subscriptions recover.
   * @param {{afterMs?: number}} options
   */
  reconnect({ afterMs = 0 } = {}) {
    if (this.#state === "idle" || this.#state === "closed") return void this.connect();
    if (this.#state === "open") this.#connected = deferred();
    const reason = "reconnecting as asked";
    this.#drop(new SeawallError("disconnected", reason));
    this.#mayWake = false;
    this.#wait(afterMs, { code: 0, reason });
  }

  /** A handle to a channel: each is independent. It takes effect once connected. */
  subscribe(name, options = {}) {
    const channel = this.#channels.get(name) ?? new Channel(this.#host, name);
    this.#channels.set(name, channel);
    const handle = new Subscription(this, channel, options);
    channel.add(handle);
    return handle;
  }

  /**
   * Publishes; resolves with the position once it is in the channel's log. Waits while there is no
   * connection; past `queueMax` waiting ones, new ones are rejected with `limit`.
   */
  publish(channel, content, { echo = true, key } = {}) {
    const text = JSON.stringify(content);
    const refusal = this.#refusalOf(text, "publish");
    if (refusal) return rejected(refusal);
    const head = { type: "publish", channel, key: key ?? `${this.#keyPrefix}-${this.#lastId + 1}` };
    if (!echo) head.echo = false;
    return this.#call(head, { text, quiet: !echo });
  }

  /**
   * Calls a method of the application behind the server; resolves with its result. Not repeated:
   * if the connection is lost before the answer, the call was carried out or not (`disconnected`).
   */
  async call(method, content = null) {
    const text = JSON.stringify(content);
    const refusal = this.#refusalOf(text, "call");
    if (refusal) throw refusal;
    const reply = await this.#call({ type: "call", method }, { text, once: true });
    return reply.content;
  }

  /** Why a request with this content cannot be made now; `null`: it can. */
  #refusalOf(text, verb) {
    if (text === undefined) {
      return new SeawallError("bad_request", "content is not JSON", "give a value");
    }
    if (this.#state === "open" || this.#calls.size < this.#options.queueMax) return null;
    const failure = `${this.#calls.size} requests wait for a connection (queueMax)`;
    return new SeawallError("limit", failure, `${verb} again once connected`);
  }

  /** The members of a channel: `{count, members, next?}`. */
  presence(channel, { limit, after } = {}) {
    return this.#call({ type: "presence", channel, limit, after });
  }

  /** Messages of a channel: `{epoch, offset, messages}`. */
  history(channel, { limit, since, reverse } = {}) {
    return this.#call({ type: "history", channel, limit, since, reverse });
  }

  /** Asks for a pong; resolves with the round trip in milliseconds. */
  ping() {
    const { now } = this.#options.clock;
    let sentAt = 0;
    const pong = this.#call({ type: "ping" }, { sending: () => { sentAt = now(); } });
    const { promise, resolve, reject } = deferred();
    pong.then(() => resolve(now() - sentAt), reject);
    return promise;
  }

  /** The part of the client that channels may use. */
  #makeHost() {
    return {
      options: this.#options,
      timers: this.#timers,
      link: () => (this.#state === "open" ? this.#link : null),
      find: (name) => this.#channels.get(name),
      forget: (channel) => {
        if (this.#channels.get(channel.name) === channel) this.#channels.delete(channel.name);
      },
      report: (error) => this._emit("error", error),
      quietCalls: (name) => [...(this.#quietCalls.get(name) ?? [])],
      serverAheadMs: () => this.#serverAheadMs,
    };
  }

  // ---- Calls: publishes and queries, which outlive a connection. ----

  #call(head, { text = null, quiet = false, once = false, sending = () => {} } = {}) {
    if (this.#state === "closed") {
      return rejected(new SeawallError("closed", "the client is closed", "call connect() first"));
    }
    const { clock, requestTimeoutMs, publishTimeoutMs } = this.#options;
    const id = ++this.#lastId;
    const { promise, resolve, reject } = deferred();
    const connections = new Set();
    const call = {
      id, head, text, quiet, once, sending, resolve, reject, connections, sent: null,
      refusal: null,
    };
    this.#calls.set(id, call);
    // A query is of little use later on; a publish may wait for a connection for longer.
    const isQuery = text === null || once;
    const ms = isQuery ? requestTimeoutMs : Math.min(publishTimeoutMs, KEY_AGE_MAX_MS);
    call.deadline = clock.setTimeout(() => this.#giveUp(call, ms), ms);
    if (this.#state === "open") this.#transmit(call);
    return promise;
  }

  #giveUp(call, ms) {
    if (call.refusal) {
      const failure = `${call.refusal.message}, for ${ms} ms`;
      return this.#settle(call, this.#unanswered(call, call.refusal.code, failure));
    }
    const failure = call.sent ? `no answer within ${ms} ms` : `no connection within ${ms} ms`;
    this.#settle(call, this.#unanswered(call, "timeout", failure));
  }

  /** The error of a call without an answer; for a publish it says whether it may have succeeded. */
  #unanswered({ text, once, sent }, code, failure) {
    if (text === null || (once && !sent)) return new SeawallError(code, failure, "ask again");
    if (once) {
      const remedy = "call again if it does no harm twice";
      return new SeawallError(code, `${failure}: the call was carried out or not`, remedy);
    }
    if (!sent) return new SeawallError(code, `not published: ${failure}`, "publish again");
    const remedy = "the channel's history shows which";
    return new SeawallError(code, `${failure}: it was published or not`, remedy);
  }

  /**
   * Repeats a publish that may have been carried out or not, until its deadline: its key makes that
   * safe. A repeat may come behind later publishes.
   */
  #repeat(call, refusal) {
    const { clock, random } = this.#options;
    call.refusal = refusal;
    clock.clearTimeout(call.timer);
    const ms = (refusal.retryAfterMs || REPEAT_MS) * (1 + random());
    call.timer = clock.setTimeout(() => {
      if (this.#state === "open") this.#transmit(call);
    }, ms);
  }

  /** Whether the server still recognizes a repeat. */
  #mayRepeat({ sent }) {
    const { clock } = this.#options;
    // The monotonic clock may stop while a computer sleeps, and the wall clock may be set.
    const ageMs = Math.max(clock.now() - sent.at, clock.wall() - sent.wallAt);
    return sent.owner === this.#owner && ageMs <= KEY_AGE_MAX_MS;
  }

  #transmit(call) {
    const { id, head, text, sent } = call;
    const { clock, requestTimeoutMs } = this.#options;
    if (sent && text !== null && !this.#mayRepeat(call)) {
      const failure = "the connection was lost before the answer, and the server may not know a "
        + "repeat as one";
      return this.#settle(call, this.#unanswered(call, "disconnected", failure));
    }
    let frame = JSON.stringify({ ...head, id });
    if (text !== null) frame = `${frame.slice(0, -1)},"content":${text}}`;
    if (frame.length * 3 > this.#messageBytesMax
        && new TextEncoder().encode(frame).length > this.#messageBytesMax) {
      const failure = `the server takes messages of ${this.#messageBytesMax} bytes at most`;
      return this.#settle(call, new SeawallError("too_large", failure, "send it in parts"));
    }
    call.refusal = null;
    call.sent ??= { at: clock.now(), wallAt: clock.wall(), owner: this.#owner };
    if (this.connection) call.connections.add(this.connection);
    if (call.quiet) this.#quiet(head.channel).add(call);
    clock.clearTimeout(call.timer);
    call.timer = clock.setTimeout(() => this.#giveUp(call, requestTimeoutMs), requestTimeoutMs);
    call.sending();
    this.#link.send(frame);
  }

  #quiet(channel) {
    if (!this.#quietCalls.has(channel)) this.#quietCalls.set(channel, new Set());
    return this.#quietCalls.get(channel);
  }

  #settle(call, error, reply) {
    const { clock } = this.#options;
    clock.clearTimeout(call.timer);
    clock.clearTimeout(call.deadline);
    this.#calls.delete(call.id);
    const { type, id, ...answer } = reply ?? {};
    if (error) call.reject(error);
    else call.resolve(answer);
    if (!call.quiet) return;
    const { channel } = call.head;
    const calls = this.#quiet(channel);
    calls.delete(call);
    if (!calls.size) this.#quietCalls.delete(channel);
    call.isRejected = Boolean(error && reply);
    this.#channels.get(channel)?.settled(call, error ? null : answer);
  }

  // ---- The connection: dial and greet. ----

  #dial() {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) {
      const remedy = "npm install ws, or pass a class as the option `WebSocket`";
      return this.#finish(new SeawallError("bad_request", "there is no WebSocket class", remedy));
    }
    this.#timers.clear("wake");
    this.#become("connecting");
    if (this.#state !== "connecting") return;
    this.#retryAfterMs = 0;
    this.#identified = false;
    let socket;
    try {
      // Where an application has identified the client, its ticket spares asking again.
      const offersTicket = this.#offersTicket && this.#ticket?.length <= OFFERED_TICKET_MAX;
      const offered = offersTicket ? [TICKET_PREFIX + this.#ticket] : [];
      socket = new Socket(this.url, [PROTOCOL, ...offered]);
    } catch (error) {
      const failure = `no connection to ${this.url}: ${error.message}`;
      return this.#finish(new SeawallError("bad_request", failure, "check the URL"));
    }
    const link = new Link(socket, this.#options, () => ++this.#lastId);
    this.#link = link;
    socket.onmessage = ({ data }) => this.#frame(link, data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason || link.problem);
    socket.onerror = (event) => { link.problem = event?.message ?? ""; };
    const { requestTimeoutMs } = this.#options;
    const late = `not connected within ${requestTimeoutMs} ms`;
    this.#timers.set("dial", requestTimeoutMs, () => this.#lost(1006, late));
  }

  /** Gets from `welcome` to `open`: by the last ticket, or else by a token. */
  #greet(link, welcome) {
    const { pingIntervalMs } = this.#options;
    this.connection = welcome.connection;
    this.#toldEngine = "back";
    this.#messageBytesMax = welcome.limits?.message_bytes ?? Infinity;
    this.#offersTicket = welcome.offer_ticket === true;
    this.#intervalMs = pingIntervalMs ?? (welcome.heartbeat ?? 25) * 1000;
    this.#channels.forEach((one) => one.suspend());
    if (!this.#ticket) return this.#authenticate(link, welcome.ticket);
    this.#resume(link, (error) => {
      if (!error) return this.#opened(link, true);
      // The ticket is good, and a later attempt may be served.
      if (isPassing(error)) return this.#lost(1013, `not resumed: ${error.message}`);
      this.#ticket = null;
      this.#authenticate(link, welcome.ticket);
    });
  }

  #resume(link, done) {
    const asked = new Map();
    const positions = {};
    for (const [name, channel] of this.#channels) {
      const { resumption } = channel;
      if (!resumption) continue;
      positions[name] = resumption;
      asked.set(name, channel.ask());
    }
    link.ask({ type: "resume", ticket: this.#ticket, positions }, (error, reply) => {
      if (link !== this.#link) return;
      if (error) return done(error);
      this.#ticket = reply.ticket ?? this.#ticket;
      this.#identified = true;
      for (const [name, one] of Object.entries(reply.channels ?? {})) {
        const channel = this.#channels.get(name);
        // Channels not resumed are subscribed separately; grants are only valid in a resume.
        if (one.error && channel?.hasGrant && isPassing(new SeawallError(one.error.code))) {
          this.#retryAfterMs = one.error.retry_after_ms ?? 0;
          return done(new SeawallError(one.error.code, `${name}: ${one.error.message}`));
        }
        if (!one.error && channel && asked.has(name)) channel.accept(one, asked.get(name));
        // The last handle was removed while the answer was pending.
        if (!one.error && !channel) link.ask({ type: "unsubscribe", channel: name }, () => {});
      }
      done(null);
    });
  }

  #authenticate(link, ticket) {
    const failed = (error) => {
      if (link !== this.#link) return;
      // The token's source may work again later; a token that was rejected will not.
      if (error?.code === "expired") return this.#lost(EXPIRED_CODE, error.message);
      if (!isPassing(error)) {
        return this.#finish(new SeawallError(error.code, error.message, NEW_TOKEN));
      }
      const problem = error instanceof SeawallError ? error
        : new SeawallError("unauthorized", `the token source failed: ${error?.message ?? error}`);
      this._emit("error", problem);
      if (link === this.#link) this.#lost(1006, problem.message);
    };
    const { clock, requestTimeoutMs } = this.#options;
    withValue(this.#options.token, { clock, ms: requestTimeoutMs }, (token) => {
      if (link !== this.#link) return;
      if (!token) return this.#unnamed(link, ticket);
      link.ask({ type: "auth", token }, (error, reply) => {
        if (link !== this.#link) return;
        if (error) return failed(error);
        this.#authenticated(token, reply);
        this.#owner = `user ${this.user}`;
        const hasGrants = [...this.#channels.values()].some((one) => one.hasGrant);
        if (!hasGrants) return this.#opened(link, false);
        // Grants outlive the lost ticket, and are valid with a fresh one.
        this.#resume(link, (problem) => {
          const isLost = problem && (isPassing(problem) || problem.code === "conflict");
          if (isLost) this.#lost(1013, `not resumed: ${problem.message}`);
          else this.#opened(link, false);
        });
      });
    }, failed);
  }

  /** Without a token: anonymous, identified by the URL or a cookie, or in need of a token. */
  #unnamed(link, ticket) {
    this.user = null;
    this.#ticket = ticket ?? null;
    this.#identified = Boolean(ticket);
    this.#identities += 1;
    this.#owner = `unnamed ${this.#identities}`;
    this.#opened(link, false);
    if (!ticket && link === this.#link) this._emit("error", this.#needsToken());
  }

  #needsToken() {
    return new SeawallError("unauthorized", "the server asks for a token", NEEDS_TOKEN);
  }

  #authenticated(token, { user, expires_in: expiresIn, ticket }) {
    const { clock } = this.#options;
    this.user = user ?? null;
    this.#ticket = ticket ?? null;
    this.#identified = true;
    const { exp } = timesOf(token);
    if (exp !== null) this.#serverAheadMs = (exp - expiresIn) * 1000 - clock.wall();
    this.#expiresAt = expiresIn > 0 ? clock.now() + expiresIn * 1000 : Infinity;
    this.#refreshIn(expiresIn * 800);
  }

  /** Sends a new token after four fifths of the old one's lifetime. */
  #refreshIn(ms) {
    const { clock, token: source, requestTimeoutMs } = this.#options;
    this.#timers.clear("refresh");
    if (typeof source !== "function" || !Number.isFinite(this.#expiresAt)) return;
    this.#timers.set("refresh", Math.max(0, ms), () => {
      const link = this.#link;
      if (this.#state !== "open") return;
      const failed = (error) => {
        if (link !== this.#link) return;
        const failure = `the token was not refreshed: ${error?.message ?? error}`;
        this._emit("error", new SeawallError(error?.code ?? "expired", failure, "trying again"));
        this.#refreshIn(Math.max(1000, (this.#expiresAt - clock.now()) / 4));
      };
      withValue(source, { clock, ms: requestTimeoutMs }, (token) => {
        if (link !== this.#link) return;
        link.ask({ type: "auth", token }, (error, reply) => {
          if (error) failed(error);
          else this.#authenticated(token, reply);
        });
      }, failed);
    });
  }

  #opened(link, resumed) {
    const { clock } = this.#options;
    // A connection that opens while the engine is away is told so before anything else.
    this.#noteEngine(this.#toldEngine);
    if (link !== this.#link) return;
    this.#timers.clear("dial");
    this.#timers.clear("overdue");
    this.#failures = 0;
    this.#isOutageReported = this.#triedFreshToken = false;
    this.#become("open", { resumed });
    if (link !== this.#link) return;
    this.#connected.resolve();
    this._emit("open", { connection: this.connection, resumed });
    if (link !== this.#link) return;
    if (this.#identified) this.#timers.set("stable", STABLE_MS, () => this.#settleDown());
    this.#beat(link);
    if (resumed) this.#refreshIn((this.#expiresAt - clock.now()) * 0.8);
    for (const one of [...this.#channels.values()]) if (link === this.#link) one.opened();
    for (const call of [...this.#calls.values()]) if (link === this.#link) this.#transmit(call);
  }

  #settleDown() {
    this.#attempts = this.#wakes = 0;
  }

  // ---- The connection: lose, wait, end. ----

  #drop(error, { code, reason } = {}) {
    const link = this.#link;
    this.#link = null;
    const timers = ["dial", "beat", "dead", "refresh", "wait", "wake", "stable"];
    timers.forEach((name) => this.#timers.clear(name));
    this.#channels.forEach((one) => one.suspend());
    for (const call of [...this.#calls.values()]) {
      this.#options.clock.clearTimeout(call.timer);
      if (!call.once || !call.sent) continue;
      const failure = "the connection was lost before the answer";
      this.#settle(call, this.#unanswered(call, "disconnected", failure));
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
    const wasOpen = this.#state === "open";
    const failure = `the connection was lost (${reason || `code ${code}`})`;
    this.#drop(new SeawallError("disconnected", failure));
    const final = this.#finalError(code, reason);
    if (final) return this.#finish(final);
    if (wasOpen) this.#connected = deferred();
    this.#watchOutage();
    const why = this.#explain(code, reason, wasOpen);
    this.#failures += 1;
    const status = STATUSES.has(why.status);
    if (status) this.#rejectWaiting(why.error);
    if (status || (!wasOpen && this.#failures === FAILURES_REPORTED)) this.#report(why.error);
    if (this.#state === "closed") return;
    this.#mayWake = !this.#retryAfterMs;
    this.#wait(this.#delayMs(status || CALM_CODES.includes(code)), why.event);
  }

  /** The error for a close code that ends the client, if there is one. */
  #finalError(code, reason) {
    const { token } = this.#options;
    if (FINAL_CODES.has(code)) {
      const [error, failure, remedy] = FINAL_CODES.get(code);
      return new SeawallError(error, reason ? `${failure}: ${reason}` : failure, remedy);
    }
    if (code === AUTH_TIMEOUT_CODE && !token) return this.#needsToken();
    if (code !== EXPIRED_CODE) return null;
    this.#ticket = null;
    // An application has identified the client, and is asked again.
    if (this.#offersTicket) return null;
    if (typeof token !== "function" || this.#triedFreshToken) {
      const remedy = "pass a function as the option `token`, which fetches a new one";
      return new SeawallError("expired", reason || "the token has expired", remedy);
    }
    this.#triedFreshToken = true;
    return null;
  }

  /** Why a connection was lost or not made, for events. */
  #explain(code, reason, wasOpen) {
    const status = Number(/response: (\d{3})/.exec(code === 1006 ? reason : "")?.[1]);
    const [error, hint] = STATUSES.get(status) ?? ["disconnected", UNREACHABLE];
    const remedy = wasOpen ? undefined : hint;
    const failure = reason || (wasOpen ? `closed with code ${code}` : "no connection");
    const text = wasOpen ? failure : `no connection to ${this.url}: ${failure}`;
    const event = { code, reason: failure, ...(remedy && { remedy }) };
    return { status, event, error: new SeawallError(error, text, remedy) };
  }

  #delayMs(isCalm) {
    const { minDelayMs, maxDelayMs, random } = this.#options;
    if (isCalm) this.#attempts = Math.max(this.#attempts, 3);
    const most = Math.min(maxDelayMs, minDelayMs * 2 ** this.#attempts);
    // Full jitter: clients that lost their connections together must not reconnect together.
    const jitter = isCalm ? most / 2 + random() * most / 2 : random() * most;
    this.#attempts += 1;
    return Math.max(jitter, this.#retryAfterMs);
  }

  #wait(delayMs, why) {
    this.#timers.set("wait", delayMs, () => this.#dial());
    this.#become("waiting", { ...why, delayMs });
  }

  /** Times out calls that wait for a connection; repeats while there is none. */
  #watchOutage() {
    if (this.#timers.has("overdue")) return;
    const { requestTimeoutMs } = this.#options;
    this.#timers.set("overdue", requestTimeoutMs, () => {
      const failure = `no connection to ${this.url} for ${requestTimeoutMs} ms`;
      const error = new SeawallError("timeout", failure, UNREACHABLE);
      this.#rejectWaiting(error);
      this.#report(error);
      if (this.#state !== "closed") this.#watchOutage();
    });
  }

  #rejectWaiting(error) {
    this.#connected.reject(error);
    this.#connected = deferred();
    this.#channels.forEach((one) => one.overdue(error));
  }

  /** Once for each outage. */
  #report(error) {
    if (this.#isOutageReported) return;
    this.#isOutageReported = true;
    this._emit("error", error);
  }

  /** Ends the client: on request, or because reconnecting cannot succeed. */
  #finish(error, close) {
    if (this.#state === "closed") return;
    this.#drop(error, close);
    this.#timers.clearAll();
    this.#environment.splice(0).forEach((stop) => stop());
    this.#ticket = null;
    this.#expiresAt = Infinity;
    this.#become("closed", { error });
    if (error.code !== "closed") this._emit("error", error);
    this.#connected.reject(error);
    for (const call of [...this.#calls.values()]) this.#settle(call, error);
    const cause = error.code === "closed" ? null : error;
    for (const one of [...this.#channels.values()]) one.end(cause, "the client was closed");
  }

  #become(state, detail = {}) {
    const previous = this.#state;
    this.#state = state;
    this._emit("state", { state, previous, ...detail });
  }

  // ---- Heartbeat, and network events of the browser. ----

  /** Browsers cannot send WebSocket pings: a request of the protocol replaces them. */
  #beat(link) {
    // 0: the server has its heartbeat off, and so has the client.
    if (!(this.#intervalMs > 0)) return;
    this.#timers.set("beat", this.#intervalMs, () => {
      this.#probe();
      if (link === this.#link) this.#beat(link);
    });
  }

  /** Sends a ping; without an answer in time the connection is considered dead. */
  #probe() {
    if (this.#state !== "open" || this.#timers.has("dead")) return;
    const link = this.#link;
    const { pongTimeoutMs } = this.#options;
    const framesBefore = this.#frames;
    link.ask({ type: "ping" }, () => {});
    this.#timers.set("dead", pongTimeoutMs, () => {
      if (link !== this.#link || this.#frames !== framesBefore) return;
      this.#lost(1006, `nothing was received for ${pongTimeoutMs} ms after a ping`);
    });
  }

  /** The network or the user may be back: checks the connection, or reconnects soon. */
  #wake() {
    if (this.#state === "open") return this.#probe();
    if (this.#state !== "waiting" || !this.#mayWake || this.#timers.has("wake")) return;
    const { minDelayMs, maxDelayMs, random } = this.#options;
    // Networks come back for many clients at once, and flap.
    const most = Math.min(maxDelayMs, minDelayMs * 2 ** this.#wakes);
    this.#wakes += 1;
    this.#timers.set("wake", random() * most, () => {
      if (this.#state !== "waiting") return;
      this.#timers.clear("wait");
      this.#dial();
    });
  }

  #watchEnvironment() {
    const watch = (target, event, call) => {
      if (typeof target?.addEventListener !== "function") return;
      target.addEventListener(event, call);
      this.#environment.push(() => target.removeEventListener(event, call));
    };
    watch(globalThis, "online", () => this.#wake());
    watch(globalThis, "offline", () => this.#probe());
    const page = globalThis.document;
    watch(page, "visibilitychange", () => page.visibilityState === "visible" && this.#wake());
  }

  // ---- Frames from the server. ----

  #frame(link, data) {
    if (link !== this.#link) return;
    this.#frames += 1;
    this.#timers.clear("dead");
    let objects;
    try {
      // Objects in one frame are separated by line feeds, which occur in no object.
      objects = String(data).split("\n").filter(Boolean).map((one) => JSON.parse(one));
    } catch {
      return this.#lost(1002, "the server sent something that is not JSON");
    }
    for (const one of objects) if (link === this.#link) this.#object(link, one);
  }

  #object(link, one) {
    const error = one.type === "error" ? this.#errorOf(one) : null;
    if (one.id !== undefined) {
      const call = this.#calls.get(one.id);
      if (!call) return link.answer(one.id, error, one);
      const mayRepeat = error?.code === "unavailable" && call.text !== null && !call.once;
      return mayRepeat ? this.#repeat(call, error) : this.#settle(call, error, one);
    }
    const channel = this.#channels.get(one.channel);
    switch (one.type) {
      case "welcome": return this.#greet(link, one);
      case "message":
        return one.channel === undefined ? this._emit("message", one) : channel?.message(one);
      case "join": case "leave": return channel?.member(one);
      case "presence_gap": return channel?.forgetNews();
      case "gap": return channel?.restart();
      case "subscribed":
        return channel ? channel.subscribedByServer(one) : this.#subscribedByServer(one);
      case "unsubscribed": return channel?.unsubscribedByServer(one.reason);
      case "ticket": return this.#renewed(one);
      case "engine":
        this.#toldEngine = one.state;
        return this.#noteEngine(one.state);
      case "goodbye":
        this.#retryAfterMs = one.retry_after_ms ?? 0;
        return this._emit("goodbye", one);
      case "error": return this._emit("error", error);
    }
  }

  /** Reports a change of the engine's state, once. */
  #noteEngine(state) {
    if (state === this.#engine) return;
    this.#engine = state;
    this._emit("engine", { state });
  }

  /** Translates an error into the terms of this library: the server's text is about frames. */
  #errorOf({ code, message, retry_after_ms: retryAfterMs }) {
    if (code === "unauthorized" && !this.#identified && this.#state === "open") {
      return this.#needsToken();
    }
    return new SeawallError(code, message, undefined, retryAfterMs);
  }

  /** The server has renewed what a resumption needs, before it expires. */
  #renewed({ ticket, grants = {} }) {
    this.#ticket = ticket;
    for (const [name, grant] of Object.entries(grants)) this.#channels.get(name)?.renew(grant);
  }

  #subscribedByServer(reply) {
    const channel = new Channel(this.#host, reply.channel);
    this.#channels.set(reply.channel, channel);
    const handle = new Subscription(this, channel, {});
    channel.adopt(handle, reply);
    this._emit("subscription", handle);
  }
}
