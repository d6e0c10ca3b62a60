/** A place in a channel: offsets grow strictly within an epoch. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Who published, or is present. */
export interface Member {
  user?: string;
  connection: string;
  /** The connection that joined, of a client without a user that has resumed. */
  joined_as?: string;
  info?: unknown;
}

export interface Message<T = any> {
  channel: string;
  epoch: string;
  offset: number;
  content: T;
  /** There for what clients publish, absent for what a backend does. */
  from?: { user?: string; connection: string };
  /** Milliseconds since 1970, by the server's clock. */
  time?: number;
  /** It was published while this client was away. */
  recovered: boolean;
}

/** A message sent to this connection or user rather than to a channel. */
export interface Broadcast {
  content: any;
  time?: number;
}

/**
 * A token, or a function that returns a fresh one; without a value the connection is anonymous.
 * A function that throws, rejects or takes longer than `requestTimeoutMs` is called again later.
 */
export type TokenSource =
  string | (() => string | undefined | null | Promise<string | undefined | null>);

export interface Options {
  /** A JWT. Only a function can be asked again when a token expires. */
  token?: TokenSource;
  /** The class to connect with. In Node the package `ws` or the global class is found by itself. */
  WebSocket?: any;
  /** Bound of the first delay before trying again; it doubles each time. Default 300. */
  minDelayMs?: number;
  /** Bound of every delay, except one that the server asks for. Default 30,000. */
  maxDelayMs?: number;
  /** Requests that may wait for a connection; further ones reject (`limit`). Default 100. */
  queueMax?: number;
  /** Between two pings; 0: none. By default the server's heartbeat, which may be off too. */
  pingIntervalMs?: number;
  /** How long a sign of life may take before the connection counts as dead. Default 5,000. */
  pongTimeoutMs?: number;
  /** How long an answer may take, one attempt to connect, and a token source. Default 10,000. */
  requestTimeoutMs?: number;
  /**
   * How long a publish may wait for a connection and its answer. Default, and at most, 280,000: the
   * server recognises a repeat by its key for 300 s (`hub.idempotency_ttl_s`); where that is less,
   * this has to be less as well.
   */
  publishTimeoutMs?: number;
  /** For tests: numbers in [0, 1). */
  random?: () => number;
  /** For tests: the time. */
  clock?: {
    /** Milliseconds of a clock that is never set. Default `performance.now()`. */
    now?: () => number;
    /** Milliseconds since 1970. Default `Date.now()`. */
    wall?: () => number;
    setTimeout?: (call: () => void, ms: number) => any;
    clearTimeout?: (timer: any) => void;
  };
}

/**
 * The protocol's codes, and the client's own: `closed` (the client or the subscription has ended),
 * `timeout` (no answer in time), `disconnected` (the connection was lost).
 */
export type ErrorCode =
  | "bad_request" | "unauthorized" | "forbidden" | "not_found" | "limit" | "too_large"
  | "rate_limited" | "expired" | "conflict" | "unavailable" | "internal"
  | "closed" | "timeout" | "disconnected";

/** Its message says what failed and, after a semicolon, the remedy. */
export class SeawallError extends Error {
  constructor(code: ErrorCode, failure: string, remedy?: string, retryAfterMs?: number);
  readonly code: ErrorCode;
  /** What to do about it, where that is known. */
  readonly remedy?: string | undefined;
  /** When the server expects a repeat to succeed (ms), where it says so. */
  readonly retryAfterMs?: number | undefined;
}

export type State = "idle" | "connecting" | "open" | "waiting" | "closed";

/** Whether the engine that the server's nodes share is there. */
export type EngineState = "away" | "back";

export interface ClientEvents {
  /**
   * `open` comes with `resumed`; `waiting` with the delay and the reason, close code and remedy for
   * the connection that was lost or not made; `closed` with the error.
   */
  state: {
    state: State;
    previous: State;
    resumed?: boolean;
    delayMs?: number;
    code?: number;
    reason?: string;
    remedy?: string;
    error?: SeawallError;
  };
  open: { connection: string; resumed: boolean };
  /** A message without a channel. */
  message: Broadcast;
  /**
   * The engine that the nodes of a cluster share has gone away for more than five seconds, or is back.
   * Meanwhile channels stand still, and requests fail with `unavailable` or are repeated; then members
   * get what they missed, or a `gap`.
   */
  engine: { state: EngineState };
  /** The server has put this connection into a channel. */
  subscription: Subscription;
  /** The server is about to close, and says when to come back. */
  goodbye: { code: number; reason: string; retry_after_ms?: number };
  /**
   * A failure that no promise reports, or not yet: the server asks for a token, a token was not
   * fetched or refreshed, there is no connection (once for each outage: after three failed attempts
   * or `requestTimeoutMs`, or at once where the server rejects the request), the client is closed
   * for good. Unless `state` is `closed`, the client keeps trying.
   */
  error: SeawallError;
}

export interface SubscriptionEvents<T = any> {
  message: Message<T>;
  join: { channel: string; member: Member };
  leave: { channel: string; member: Member };
  /** Joins or leaves were missed: ask for the members again, with `presence()`. */
  presenceGap: { channel: string };
  /** Messages after `from`, up to `to`, are lost; delivery continues after `to`. */
  gap: { channel: string; from: Position; to: Position };
  /** Also after each reconnection. `recovered`: nothing was missed. */
  subscribed: Subscribed & { channel: string };
  /** The handle has ended. */
  unsubscribed: { channel: string; reason: string };
  /** The handle ends, because of this. */
  error: SeawallError;
}

export interface Subscribed extends Position {
  recovered: boolean;
  /** The first of those present, where joins and leaves were asked for. */
  presence?: Omit<Presence, "channel">;
}

export interface Published extends Position {
  channel: string;
  /** It had been published before, under the same key. */
  duplicate?: boolean;
}

export interface PublishOptions {
  /**
   * Whether the message is delivered to this client's own handles, too; without, it is not even
   * after a reconnection. (A handle made later, with `since`, may get it.) Default true.
   */
  echo?: boolean;
  /** Repeats under one key are published once. By default each call has a key of its own. */
  key?: string;
}

export interface PresenceOptions {
  limit?: number;
  /** The `next` of the page before. */
  after?: string;
}

export interface Presence {
  channel: string;
  count: number;
  members: Member[];
  next?: string;
}

export interface HistoryOptions {
  limit?: number;
  since?: Position;
  reverse?: boolean;
}

export interface History<T = any> extends Position {
  channel: string;
  messages: Omit<Message<T>, "channel" | "epoch" | "recovered">[];
}

export interface SubscribeOptions {
  /** Start after this position rather than after the newest message. */
  since?: Position;
  /** Send `join` and `leave`. */
  presence?: boolean;
  /** Permission for this channel alone. A function is asked again before its last token ends. */
  token?: TokenSource;
}

declare class Events<Map> {
  on<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
  once<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
  off<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
}

/**
 * A handle to a channel, with contents of type `T`. Handles are independent: each gets every message
 * once and in order, and ends by its own `unsubscribe`; the last one ends the subscription itself.
 */
export class Subscription<T = any> extends Events<SubscriptionEvents<T>>
  implements AsyncIterable<Message<T>> {
  private constructor();
  readonly channel: string;
  /**
   * Resolves with the first `subscribed`; rejects when the handle ends before. It also rejects, with
   * `timeout` or the failure to connect, when there is no connection for `requestTimeoutMs` after
   * `connect()`, or no answer to five attempts: then the handle keeps trying, `subscribed` still
   * comes, and `ready` is a new promise.
   */
  readonly ready: Promise<Subscribed>;
  /** The last message delivered. */
  readonly position: Position | null;
  readonly live: boolean;
  publish(content: T, options?: PublishOptions): Promise<Published>;
  presence(options?: PresenceOptions): Promise<Presence>;
  history(options?: HistoryOptions): Promise<History<T>>;
  /** Ends this handle. Resolves when the server has confirmed, or the connection is gone. */
  unsubscribe(): Promise<void>;
  [Symbol.asyncIterator](): AsyncIterableIterator<Message<T>>;
}

export class Seawall extends Events<ClientEvents> {
  constructor(url: string | URL, options?: Options);
  readonly url: string | URL;
  readonly state: State;
  /** The server's name for this connection; no secret, and no proof of anything. */
  readonly connection: string | null;
  readonly user: string | null;
  /** Whether the engine of a cluster is there; `back` at first, and where there is none. */
  readonly engine: EngineState;
  /**
   * Connects, and stays connected until `close`. Resolves when open. Rejects when the client closes
   * for good, when the server rejects the request and the platform says so (Node: 401, 403, 404), and
   * with `timeout` after `requestTimeoutMs` without connection. In the last two cases the client
   * keeps trying, and calling it again waits again. Open is not authenticated: a server that asks
   * for a token which is not there is an `error` event.
   */
  connect(): Promise<void>;
  /** Ends the connection, all subscriptions and all pending requests. */
  close(code?: number, reason?: string): void;
  /** Gives the connection up and makes a new one, at once or after a time. */
  reconnect(options?: { afterMs?: number }): void;
  /** A new handle to a channel; it takes effect once connected. */
  subscribe<T = any>(channel: string, options?: SubscribeOptions): Subscription<T>;
  /**
   * Resolves once the message is in the channel's log. Published at most once, unless the engine of a
   * cluster has lost its latest writes: where a rejection leaves the outcome open (`timeout`,
   * `disconnected`, `unavailable`), its message says so.
   * A publish that the server answers with `unavailable` is repeated until `publishTimeoutMs`, and may
   * come behind later ones then: where the order counts, await each before the next.
   */
  publish(channel: string, content: unknown, options?: PublishOptions): Promise<Published>;
  presence(channel: string, options?: PresenceOptions): Promise<Presence>;
  history<T = any>(channel: string, options?: HistoryOptions): Promise<History<T>>;
  /**
   * Calls a method of the application behind the server; resolves with the content of its result.
   * Errors that the application chose have its `code` and `message`. Never repeated: after
   * `disconnected`, `timeout` or `unavailable` it may have been carried out.
   */
  call<T = any>(method: string, content?: unknown): Promise<T>;
  /** The round trip to the server and back, in milliseconds. */
  ping(): Promise<number>;
}
