// @ts-check
/**
 * Channels. `Channel` is the one subscription that a connection has on the wire; `Subscription` is
 * a handle to it, of which an application may have several. Each handle has a position of its own,
 * so that a message is delivered to each once and in order, however often the wire repeats it.
 *
 * Invariant: the position of a live handle is never before the channel's place. What the wire sends
 * continues at the place, and a handle skips what it has already delivered.
 */

import { Events, SeawallError, deferred, isPassing, timesOf, withValue } from "./base.js";

const ITERATOR_MESSAGES_MAX = 10_000;
const NO_TIMES = { iat: null, exp: null, at: 0 };
/** Publishes without a known outcome that are remembered, to recognise their messages. */
const DOUBTFUL_MAX = 100;
/** Offsets of publishes without echo, past which those are forgotten that are passed. */
const OWN_MAX = 1000;
/** Unanswered attempts to subscribe after which `ready` rejects. */
const ATTEMPTS_MAX = 5;
/** Members of whom the last join or leave is remembered, to recognise a repetition. */
const NEWS_MAX = 10_000;
/** A subscription that ends this close to its token's expiry is considered expired. */
const EXPIRY_MS = 2000;

/** A handle to a channel; made by `Seawall.subscribe`. */
export class Subscription extends Events {
  #client;
  #channel;
  #ready = deferred();
  #position;
  #live = false;
  #ended = false;
  #recovered = false;
  #readers = new Set();

  constructor(client, channel, options) {
    super();
    this.#client = client;
    this.#channel = channel;
    this.channel = channel.name;
    this.options = options;
    this.#position = options.since ? { ...options.since } : null;
    /** @internal Whether it has been live at least once. */
    this._started = false;
  }

  /** Resolved with the first `subscribed`. */
  get ready() {
    return this.#ready.promise;
  }

  /** The last message delivered: `{epoch, offset}`; `null` before the first `subscribed`. */
  get position() {
    return this.#position && { ...this.#position };
  }

  /** Whether live messages are delivered. */
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

  /** Ends this handle; the last one of a channel ends the subscription on the wire. */
  unsubscribe() {
    return this.#channel.remove(this);
  }

  /** The messages from now on; ends with the handle. */
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

  /** @internal */
  _suspend() {
    this.#live = false;
  }

  /**
   * @internal Takes what the server replied to a `subscribe` from `since`. Returns false if this
   * handle is further than `since`, so that asking again from its own position may lose less.
   */
  _place({ epoch, offset, recovered }, since) {
    const from = this.#position;
    if (from === null) {
      this.#position = { epoch, offset };
      this.#recovered = recovered ?? false;
      return true;
    }
    const isSame = from.epoch === epoch;
    const isCovered = recovered && since && from.offset >= since.offset;
    if (isSame && (from.offset === offset || isCovered)) {
      this.#recovered = true;
      return true;
    }
    if (isSame && since && from.offset > since.offset && from.offset < offset) return false;
    const isStart = from.offset === 0 && since?.offset === 0 && since.epoch === from.epoch;
    if (recovered && isStart) {
      // No message was missed: the channel was unused when its position was read.
      this.#position = { epoch, offset: 0 };
      this.#recovered = true;
      return true;
    }
    this.#position = { epoch, offset };
    this.#recovered = false;
    this._emit("gap", { channel: this.channel, from: { ...from }, to: { epoch, offset } });
    return true;
  }

  /** @internal Live messages follow from here on. */
  _start({ epoch, offset, presence }) {
    if (this.#live || this.#ended) return;
    this.#live = true;
    this._started = true;
    const subscribed = { epoch, offset, recovered: this.#recovered, presence };
    this._emit("subscribed", { channel: this.channel, ...subscribed });
    this.#ready.resolve(subscribed);
  }

  /** @internal Advances to this offset; its message is not for this client. */
  _skip(offset) {
    if (this.#live && offset > this.#position.offset) this.#position.offset = offset;
  }

  /** @internal */
  _deliver(message) {
    if (!this.#live || message.offset <= this.#position.offset) return;
    this.#position.offset = message.offset;
    for (const reader of this.#readers) {
      if (reader.waiting.length) {
        reader.waiting.shift()({ value: message, done: false });
      } else if (reader.messages.length < ITERATOR_MESSAGES_MAX) {
        reader.messages.push(message);
      } else {
        const text = `${ITERATOR_MESSAGES_MAX} messages are waiting in an iterator`;
        reader.error = new SeawallError("limit", text, "take them faster");
        this.#readers.delete(reader);
      }
    }
    this._emit("message", message);
  }

  /** @internal Reports a subscription that is late; attempts continue. */
  _overdue(error) {
    if (this._started) return;
    this.#ready.reject(error);
    this.#ready = deferred();
  }

  /** @internal Ends it, with an error or on request. */
  _end(error, reason) {
    if (this.#ended) return;
    this.#ended = true;
    this.#live = false;
    this.#ready.reject(error ?? new SeawallError("closed", "the subscription has ended"));
    for (const reader of this.#readers) {
      reader.waiting.splice(0).forEach((resolve) => resolve({ value: undefined, done: true }));
    }
    if (error) this._emit("error", error);
    this._emit("unsubscribed", { channel: this.channel, reason: error?.message ?? reason });
  }
}

/** A channel on the wire. `host` is the part of the client that it may use. */
export class Channel {
  #host;
  #handles = new Set();
  #epoch = null;
  /** The offset up to which messages were received in order. */
  #place = 0;
  /** Messages up to this one were published before the subscription. */
  #head = 0;
  #live = false;
  /** The `subscribe` in flight: its handles, and where it starts. */
  #asking = null;
  #attempts = 0;
  #grant = undefined;
  /** The source of channel tokens, and the times of the accepted one. */
  #token = undefined;
  #tokenTimes = NO_TIMES;
  /** Offsets of this client's publishes without echo, and their epoch. */
  #own = new Set();
  #ownEpoch = null;
  /** Publishes without echo whose outcome was never known. */
  #doubtful = [];
  /** Messages held until a publish without echo is answered. */
  #held = [];
  /** The last `join` or `leave` of each member, the oldest first. */
  #news = new Map();

  constructor(host, name) {
    this.#host = host;
    this.name = name;
  }

  get live() {
    return this.#live;
  }

  /** The part of `resume` for this channel; `null` before the first `subscribed`. */
  get resumption() {
    const since = this.#since();
    if (!since) return null;
    return { ...since, grant: this.#grant, presence: this.#wantsPresence() };
  }

  get hasGrant() {
    return this.#grant !== undefined && this.#since() !== undefined;
  }

  // ---- Handles. ----

  add(handle) {
    this.#handles.add(handle);
    if (handle.options.token !== undefined) this.#token = handle.options.token;
    if (!this.#host.link() || this.#asking) return;
    if (!this.#live || this.#needsWire(handle)) return this.sync();
    // Its listeners are added later in this turn.
    queueMicrotask(() => this.#live && this.#welcomeNewHandles());
  }

  remove(handle) {
    if (!this.#handles.delete(handle)) return Promise.resolve();
    handle._end(null, "as asked");
    if (this.#handles.size) return Promise.resolve();
    this.#stop();
    const done = deferred();
    const ask = (attemptsLeft) => {
      const link = this.#host.link();
      // It ended with the connection, or has a new handle.
      if (!link || !attemptsLeft || this.#host.find(this.name)) return done.resolve();
      link.ask({ type: "unsubscribe", channel: this.name }, (error) => {
        if (error?.code === "timeout" || error?.code === "rate_limited") ask(attemptsLeft - 1);
        else done.resolve();
      });
    };
    ask(ATTEMPTS_MAX);
    return done.promise;
  }

  /** Ends all handles. */
  end(error, reason) {
    this.#stop();
    const handles = [...this.#handles];
    this.#handles.clear();
    handles.forEach((one) => one._end(error, reason));
  }

  #stop() {
    this.#host.forget(this);
    this.suspend();
  }

  /** Whether a handle needs messages from before the channel's position. */
  #needsWire({ options }) {
    const { presence, token, since } = options;
    // It may also be further than this channel, which may not have received its newest messages yet.
    const isElsewhere = since && since.epoch === this.#epoch && since.offset !== this.#newest();
    return Boolean(presence || token !== undefined || isElsewhere);
  }

  /** Where a new handle starts: behind what is replayed to the others. */
  #newest() {
    return Math.max(this.#place, this.#head);
  }

  #wantsPresence() {
    return [...this.#handles].some((one) => one.options.presence) || undefined;
  }

  /** Starts handles that were added while the channel was live or being subscribed. */
  #welcomeNewHandles() {
    const fresh = [...this.#handles].filter((one) => !one.live);
    if (!fresh.length || this.#asking) return;
    if (fresh.some((one) => this.#needsWire(one))) return this.sync();
    const place = { epoch: this.#epoch, offset: this.#newest(), recovered: false };
    fresh.forEach((one) => {
      one._place(place, null);
      one._start(place);
    });
  }

  overdue(error) {
    this.#handles.forEach((one) => one._overdue(error));
  }

  // ---- Subscribing. ----

  /** The earliest position among the handles. */
  #since() {
    const positions = [...this.#handles].map((one) => one.position).filter(Boolean);
    const epoch = this.#epoch ?? positions[0]?.epoch;
    const offsets = positions.filter((one) => one.epoch === epoch).map((one) => one.offset);
    return offsets.length ? { epoch, offset: Math.min(...offsets) } : positions[0];
  }

  /**
   * Subscribes from where the handles are. On a live channel this shows a fresh token, or replays
   * messages for a new handle, while messages continue to be delivered.
   */
  sync({ isRetry = false } = {}) {
    const link = this.#host.link();
    if (!link || this.#asking) return;
    this.#host.timers.clear(`again ${this.name}`);
    const asking = { handles: [...this.#handles], since: null, times: NO_TIMES };
    this.#asking = asking;
    const failed = (error) => {
      if (this.#asking !== asking) return;
      this.#asking = null;
      this.#failed(error, asking, isRetry);
    };
    // A fixed token is sent once: it cannot be renewed, and the server remembers its rights.
    const isShown = this.#live && [...this.#handles].every((one) => one._started);
    const source = typeof this.#token === "function" || !isShown ? this.#token : undefined;
    const { clock, requestTimeoutMs } = this.#host.options;
    withValue(source, { clock, ms: requestTimeoutMs }, (token) => {
      if (this.#asking !== asking) return;
      if (token) asking.times = { ...timesOf(token), at: clock.now() };
      asking.handles = [...this.#handles];
      asking.since = this.#since();
      const { since } = asking;
      const request = { since, presence: this.#wantsPresence(), token: token ?? undefined };
      link.ask({ type: "subscribe", channel: this.name, ...request }, (error, reply) => {
        if (error) return failed(error);
        if (this.#asking === asking) return this.accept(reply, asking);
        // The server ended the subscription while this request was on its way to it.
        if (!this.#host.find(this.name) && link === this.#host.link()) {
          link.ask({ type: "unsubscribe", channel: this.name }, () => {});
        }
      });
    }, failed);
  }

  /** The request that `resume` makes for this channel; `accept` needs it with the answer. */
  ask() {
    return { handles: [...this.#handles], since: this.#since() };
  }

  /** The server's answer to a `subscribe`, or its part of the answer to a `resume`. */
  accept({ epoch, offset, recovered = false, presence, grant }, { handles, since, times }) {
    this.#asking = null;
    if (times && times !== NO_TIMES) this.#tokenTimes = times;
    if (grant !== undefined) this.#grant = grant;
    const present = handles.filter((one) => this.#handles.has(one));
    const settled = present.map((one) => one._place({ epoch, offset, recovered }, since));
    this.#epoch = epoch;
    this.#place = recovered && since ? since.offset : offset;
    this.#head = offset;
    this.#held = [];
    if (settled.includes(false)) {
      this.suspend();
      return this.sync();
    }
    this.#live = true;
    this.#attempts = 0;
    // Joins and leaves may have been missed; those on the page are present.
    this.#news.clear();
    presence?.members.forEach((member) => this.#isNews("join", member));
    this.#renewInTime();
    present.forEach((one) => one._start({ epoch, offset, presence }));
    this.#forgetOwn();
    this.#welcomeNewHandles();
  }

  #failed(error, { handles, since, times }, isRetry) {
    if (typeof this.#token === "function" && !isRetry && this.#isOfOldToken(error, times)) {
      return this.sync({ isRetry: true });
    }
    if (error.code === "conflict" && !since) return this.#converge();
    if (isPassing(error)) return this.#tryAgain(error);
    const present = handles.filter((one) => this.#handles.has(one));
    const hasStarted = present.some((one) => one._started);
    const blamed = present.filter((one) =>
      (hasStarted ? !one._started : one.options.token === this.#token));
    if (blamed.length && blamed.length < this.#handles.size) {
      // The token of these handles was rejected; the others do without it.
      blamed.forEach((one) => this.#handles.delete(one));
      this.#token = [...this.#handles].map((one) => one.options.token).findLast(Boolean);
      blamed.forEach((one) => one._end(error));
      return this.sync();
    }
    const isOfToken = ["expired", "unauthorized", "forbidden"].includes(error.code);
    if (!this.#live || !isOfToken) return this.end(error);
    // The subscription lasts until its old token ends.
    this.#report(error);
    const delayMs = Math.max(1000, this.#tokenMs() / 4);
    this.#host.timers.set(`again ${this.name}`, delayMs, () => this.sync());
  }

  #isOfOldToken({ code }, times) {
    if (code === "forbidden") return this.#tokenMs(times) <= 0;
    return code === "expired" || code === "unauthorized";
  }

  #report(error) {
    const text = `${this.name}: ${error?.message ?? error}`;
    const code = error?.code ?? "unauthorized";
    this.#host.report(new SeawallError(code, text, "trying again", error?.retryAfterMs));
  }

  #tryAgain(error) {
    const { minDelayMs, maxDelayMs, random } = this.#host.options;
    this.#attempts += 1;
    if (this.#attempts === 1) this.#report(error);
    if (this.#attempts % ATTEMPTS_MAX === 0) this.overdue(error);
    // The server knows the better delay, where it says one; clients must not come all at once.
    const most = error?.retryAfterMs ? error.retryAfterMs * 2
      : Math.min(maxDelayMs, minDelayMs * 2 ** this.#attempts);
    const delayMs = most / 2 + random() * most / 2;
    this.#host.timers.set(`again ${this.name}`, delayMs, () => this.sync());
  }

  /** The server has the subscription already: a backend made it, or an unsubscribe was lost. */
  #converge() {
    // A notice of the backend's subscription has given the position to start from.
    if (this.#since()) return this.sync();
    this.#host.link()?.ask({ type: "unsubscribe", channel: this.name }, () => {});
    this.#tryAgain(new SeawallError("internal", "the server had this subscription already"));
  }

  /** Starts the first handle on a subscription that the server made. */
  adopt(handle, reply) {
    this.#handles.add(handle);
    this.accept(reply, { handles: [handle], since: null });
  }

  /** Handles a subscription made by the server. */
  subscribedByServer(reply) {
    if (reply.grant !== undefined) this.#grant = reply.grant;
    if (this.#live) return this.#renewInTime();
    const handles = [...this.#handles];
    const hasPosition = this.#since() !== undefined;
    const needsMore = this.#wantsPresence() || this.#token !== undefined;
    if (!hasPosition && !needsMore) return this.accept(reply, { handles, since: null });
    if (!hasPosition) handles.forEach((one) => one._place(reply, null));
    // The answer to the request in flight says what was recovered.
    if (!this.#asking) this.sync();
  }

  /** Handles the end of the subscription by the server, or by the expiry of its token. */
  unsubscribedByServer(reason) {
    this.suspend();
    const isExpired = reason === "expired" || this.#tokenMs() <= EXPIRY_MS;
    // A grant without a token is an application's decision, which it may make again.
    const isDecided = this.#token === undefined && this.#grant !== undefined;
    if (isExpired && (isDecided || typeof this.#token === "function")) {
      this.#grant = undefined;
      return this.sync();
    }
    this.end(null, "by the server");
  }

  /** Suspends the channel after a lost connection or missing messages, until `accept`. */
  suspend() {
    this.#live = false;
    this.#asking = null;
    this.#held = [];
    this.#handles.forEach((one) => one._suspend());
    this.#host.timers.clear(`again ${this.name}`);
    this.#host.timers.clear(`renew ${this.name}`);
  }

  /** Resubscribes behind the last delivered messages when some are missing. */
  restart() {
    if (!this.#live) return;
    this.suspend();
    this.sync();
  }

  opened() {
    if (this.#live) this.#welcomeNewHandles();
    else this.sync();
  }

  // ---- Expiry. ----

  /** Remaining lifetime of the channel's token, by its times and the clocks. */
  #tokenMs({ iat, exp, at } = this.#tokenTimes) {
    if (exp === null) return Infinity;
    const { clock } = this.#host.options;
    const byClock = exp * 1000 - clock.wall() - this.#host.serverAheadMs();
    const byAge = iat === null ? Infinity : (exp - iat) * 1000 - (clock.now() - at);
    return Math.min(byClock, byAge);
  }

  /** Subscribes again before the channel's token ends. */
  #renewInTime() {
    const leftMs = typeof this.#token === "function" ? this.#tokenMs() : Infinity;
    if (leftMs === Infinity) return this.#host.timers.clear(`renew ${this.name}`);
    const ms = leftMs * (0.6 + 0.2 * this.#host.options.random());
    this.#host.timers.set(`renew ${this.name}`, Math.max(1000, ms), () => this.sync());
  }

  /** Stores a renewed grant. */
  renew(grant) {
    this.#grant = grant;
  }

  // ---- Messages. ----

  message(one) {
    if (!this.#live) return;
    if (this.#held.length || this.#isInDoubt(one)) this.#held.push(one);
    else this.#take(one);
  }

  /**
   * Whether this message may be one of this client's own that is not to be echoed, or only seem to
   * come too early because of one: the answers to those publishes decide.
   */
  #isInDoubt({ offset, prev = offset - 1, from }) {
    const quiet = this.#host.quietCalls(this.name);
    if (!quiet.length) return false;
    this.#passOwn();
    return prev > this.#place || quiet.some((call) => call.connections.has(from?.connection));
  }

  #take({ offset, prev = offset - 1, content, from, time }) {
    this.#passOwn();
    if (offset <= this.#place) return;
    if (prev > this.#place) return this.restart();
    this.#place = offset;
    if (this.#isOwn(offset) || this.#wasDoubtful(content, from)) return this.#skipTo(offset);
    const recovered = offset <= this.#head;
    const message = { channel: this.name, epoch: this.#epoch, offset, content, from, time };
    for (const one of [...this.#handles]) one._deliver({ ...message, recovered });
  }

  /** Forgets the offsets that every handle has passed. */
  #forgetOwn() {
    const { epoch, offset } = this.#since() ?? {};
    if (epoch !== this.#ownEpoch) return;
    this.#own.forEach((one) => one <= offset && this.#own.delete(one));
  }

  #isOwn(offset) {
    return this.#ownEpoch === this.#epoch && this.#own.has(offset);
  }

  #skipTo(offset) {
    this.#handles.forEach((one) => one._skip(offset));
  }

  #passOwn() {
    while (this.#isOwn(this.#place + 1)) {
      this.#place += 1;
      this.#skipTo(this.#place);
    }
  }

  #wasDoubtful(content, from) {
    if (!this.#doubtful.length) return false;
    const text = JSON.stringify(content);
    const isIt = (one) => one.text === text && one.connections.has(from?.connection);
    const at = this.#doubtful.findIndex(isIt);
    if (at >= 0) this.#doubtful.splice(at, 1);
    return at >= 0;
  }

  /** Handles the answer to a publish without echo, or its absence. */
  settled(call, answer) {
    if (!answer) {
      if (call.connections.size && !call.isRejected) this.#doubtful.push(call);
      while (this.#doubtful.length > DOUBTFUL_MAX) this.#doubtful.shift();
    } else {
      if (this.#ownEpoch !== answer.epoch) this.#own.clear();
      this.#ownEpoch = answer.epoch;
      this.#own.add(answer.offset);
      if (this.#live) this.#passOwn();
      if (this.#own.size > OWN_MAX) this.#forgetOwn();
    }
    for (const one of this.#held.splice(0)) this.message(one);
  }

  /** Remembers a join or a leave; returns whether it changes anything. */
  #isNews(type, member) {
    const { user, joined_as: joinedAs, connection } = member;
    const key = user === undefined ? `c ${joinedAs ?? connection}` : `u ${user}`;
    if (this.#news.get(key) === type) return false;
    this.#news.delete(key);
    this.#news.set(key, type);
    if (this.#news.size > NEWS_MAX) this.#news.delete(this.#news.keys().next().value);
    return true;
  }

  /** Joins or leaves were missed on the way. */
  forgetNews() {
    this.#news.clear();
    for (const one of [...this.#handles]) {
      if (one.live && one.options.presence) one._emit("presenceGap", { channel: this.name });
    }
  }

  /** Handles a join or a leave. The server may repeat one; a repetition means nothing. */
  member({ type, member }) {
    if (!this.#isNews(type, member)) return;
    for (const one of [...this.#handles]) {
      if (one.live && one.options.presence) one._emit(type, { channel: this.name, member });
    }
  }
}
