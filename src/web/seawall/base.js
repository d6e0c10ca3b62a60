// @ts-check
/** Shared parts of the client library: errors, events, promises, timers and tokens. */

/** Errors after which a retry may succeed. */
const PASSING_CODES = ["rate_limited", "unavailable", "internal", "timeout", "disconnected"];
const TIMER_MS_MAX = 0x7fff_ffff;

/**
 * An error with a code: the protocol's, or one of the client's own: `closed timeout disconnected`.
 * Its message says what failed and, after a semicolon, what to do about it (`remedy`).
 */
export class SeawallError extends Error {
  /**
   * @param {string} code @param {string} failure @param {string} [remedy]
   * @param {number} [retryAfterMs] When the server expects a repeat to succeed.
   */
  constructor(code, failure, remedy, retryAfterMs) {
    super(remedy ? `${failure}; ${remedy}` : failure);
    this.name = "SeawallError";
    this.code = code;
    this.remedy = remedy;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Whether the same request may succeed later: also where a token source failed. */
export function isPassing(error) {
  return !(error instanceof SeawallError) || PASSING_CODES.includes(error.code);
}

/** Listeners by event. A listener that throws is reported and does not affect the others. */
export class Events {
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

/** A promise with its two ends. Its rejection counts as handled, whether it is awaited or not. */
export function deferred() {
  let ends;
  const promise = new Promise((resolve, reject) => { ends = { resolve, reject }; });
  promise.catch(() => {});
  return { promise, ...ends };
}

export function rejected(error) {
  const { promise, reject } = deferred();
  reject(error);
  return promise;
}

/** Timers by name: setting one replaces it. */
export class Timers {
  #clock;
  #timers = new Map();

  constructor(clock) {
    this.#clock = clock;
  }

  set(name, ms, call) {
    this.clear(name);
    const fire = () => {
      this.#timers.delete(name);
      call();
    };
    this.#timers.set(name, this.#clock.setTimeout(fire, Math.min(ms, TIMER_MS_MAX)));
  }

  has(name) {
    return this.#timers.has(name);
  }

  clear(name) {
    this.#clock.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  clearAll() {
    [...this.#timers.keys()].forEach((name) => this.clear(name));
  }
}

/**
 * Calls `then` with a value, or with what a function returns for it. A plain value is passed on
 * in the same turn. A function that throws, rejects or takes longer than `ms` ends in `failed`.
 */
export function withValue(source, { clock, ms }, then, failed) {
  if (typeof source !== "function") return then(source);
  let isOver = false;
  const endWith = (call) => (value) => {
    if (isOver) return;
    isOver = true;
    clock.clearTimeout(timer);
    call(value);
  };
  const late = new SeawallError("timeout", `the token source gave no token within ${ms} ms`);
  const timer = clock.setTimeout(() => endWith(failed)(late), ms);
  Promise.resolve().then(source).then(endWith(then), endWith(failed));
}

/** The times of a JWT (`iat`, `exp`: seconds since 1970), where it can be read. */
export function timesOf(token) {
  try {
    const payload = String(token).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { iat, exp } = JSON.parse(atob(payload));
    return { iat: Number.isFinite(iat) ? iat : null, exp: Number.isFinite(exp) ? exp : null };
  } catch {
    return { iat: null, exp: null };
  }
}

/** A socket, and the requests that end with it. */
export class Link {
  #asks = new Map();
  #timers;
  #options;

  constructor(socket, options, nextId) {
    this.socket = socket;
    /** The error that the socket reported, if the platform gives one. */
    this.problem = "";
    this.#options = options;
    this.#timers = new Timers(options.clock);
    this.nextId = nextId;
  }

  send(text) {
    if (this.socket.readyState === 1) this.socket.send(text);
  }

  /**
   * Sends a request; `done(error, reply)` is called with its answer, in the same turn, or with an
   * error when there is no answer in time or the link ends.
   */
  ask(message, done) {
    const id = this.nextId();
    const { requestTimeoutMs } = this.#options;
    this.#asks.set(id, done);
    this.#timers.set(id, requestTimeoutMs, () => {
      this.#asks.delete(id);
      const text = `the server did not answer ${message.type} within ${requestTimeoutMs} ms`;
      done(new SeawallError("timeout", text));
    });
    this.send(JSON.stringify({ ...message, id }));
  }

  /** Takes the answer to a request of this link: a reply, or the error that it holds. */
  answer(id, error, reply) {
    const done = this.#asks.get(id);
    if (!done) return;
    this.#asks.delete(id);
    this.#timers.clear(id);
    done(error, reply);
  }

  end(error) {
    const asks = [...this.#asks.values()];
    this.#asks.clear();
    this.#timers.clearAll();
    const { socket } = this;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A socket that is closed before it opens reports an error, which is expected here.
    socket.onerror = () => {};
    asks.forEach((done) => done(error));
  }
}
