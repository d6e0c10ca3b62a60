/** A place in a channel: offsets grow strictly within an epoch. */
export interface Position {
  epoch: string;
  offset: number;
}

/** Who published, or is present. */
export interface Member {
  user?: string;
  connection: string;
  info?: unknown;
}

export interface Message {
  channel: string;
  epoch: string;
  offset: number;
  content: any;
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

/** A token, or what gives a fresh one; without a value the connection stays anonymous. */
export type TokenSource =
  string | (() => string | undefined | null | Promise<string | undefined | null>);

export interface Options {
  /** A JWT. Only a function can be asked again when a token expires. */
  token?: TokenSource;
  /** The class to connect with where there is no global one: that of the package `ws`. */
  WebSocket?: any;
  /** Bound of the first delay before trying again; it doubles each time. Default 300. */
  minDelayMs?: number;
  /** Bound of every delay, except one that the server asks for. Default 30,000. */
  maxDelayMs?: number;
  /** Requests that may wait for a connection; further ones are refused (`limit`). Default 100. */
  queueMax?: number;
  /** Between two signs of life; by default what the server says in `welcome`. */
  pingIntervalMs?: number;
  /** How long a sign of life may take before the connection counts as dead. Default 5,000. */
  pongTimeoutMs?: number;
  /** How long an answer may take, and how long connecting may. Default 10,000. */
  requestTimeoutMs?: number;
  /** For tests: numbers in [0, 1). */
  random?: () => number;
  /** For tests: the time. */
  clock?: {
    now?: () => number;
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
  | "rate_limited" | "expired" | "conflict" | "internal"
  | "closed" | "timeout" | "disconnected";

export class SeawallError extends Error {
  constructor(code: ErrorCode, message: string);
  readonly code: ErrorCode;
}

export type State = "idle" | "connecting" | "open" | "waiting" | "closed";

export interface ClientEvents {
  /** `waiting` tells the delay and why; `closed` the error; `open` whether it was resumed. */
  state: {
    state: State;
    previous: State;
    resumed?: boolean;
    delayMs?: number;
    code?: number;
    reason?: string;
    error?: SeawallError;
  };
  open: { connection: string; resumed: boolean };
  /** A message without a channel. */
  message: Broadcast;
  /** The server has put this connection into a channel. */
  subscription: Subscription;
  /** The server is about to close, and says when to come back. */
  goodbye: { code: number; reason: string; retry_after_ms?: number };
  error: SeawallError;
}

export interface SubscriptionEvents {
  message: Message;
  join: { channel: string; member: Member };
  leave: { channel: string; member: Member };
  /** Messages behind `from` up to `to` are gone; it goes on behind `to`. */
  gap: { channel: string; from: Position; to: Position };
  /** Also after each reconnection. `recovered`: nothing was missed. */
  subscribed: Subscribed & { channel: string };
  unsubscribed: { channel: string };
  /** The subscription has ended for this reason. */
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
  /** Whether the message comes back to this client, if it is subscribed. Default true. */
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

export interface History extends Position {
  channel: string;
  messages: Omit<Message, "channel" | "epoch" | "recovered">[];
}

export interface SubscribeOptions {
  /** Go on behind this position rather than at the newest message. */
  since?: Position;
  /** Send `join` and `leave`. */
  presence?: boolean;
  /** Permission for this channel alone. */
  token?: TokenSource;
}

declare class Events<Map> {
  on<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
  once<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
  off<E extends keyof Map>(event: E, listener: (value: Map[E]) => void): this;
}

export class Subscription extends Events<SubscriptionEvents> implements AsyncIterable<Message> {
  private constructor();
  readonly channel: string;
  /** Resolved when first subscribed, rejected when refused. */
  readonly ready: Promise<Subscribed>;
  /** The last message delivered. */
  readonly position: Position | null;
  readonly live: boolean;
  publish(content: unknown, options?: PublishOptions): Promise<Published>;
  presence(options?: PresenceOptions): Promise<Presence>;
  history(options?: HistoryOptions): Promise<History>;
  unsubscribe(): Promise<void>;
  [Symbol.asyncIterator](): AsyncIterableIterator<Message>;
}

export class Seawall extends Events<ClientEvents> {
  constructor(url: string | URL, options?: Options);
  readonly url: string | URL;
  readonly state: State;
  /** The server's name for this connection; no secret, and no proof of anything. */
  readonly connection: string | null;
  readonly user: string | null;
  /** Connects, and stays connected until `close`. Resolved when open for the first time. */
  connect(): Promise<void>;
  /** Ends the connection, all subscriptions and all that waits. */
  close(code?: number, reason?: string): void;
  /** Gives the connection up and makes a new one, at once or after a time. */
  reconnect(options?: { afterMs?: number }): void;
  subscribe(channel: string, options?: SubscribeOptions): Subscription;
  publish(channel: string, content: unknown, options?: PublishOptions): Promise<Published>;
  presence(channel: string, options?: PresenceOptions): Promise<Presence>;
  history(channel: string, options?: HistoryOptions): Promise<History>;
  /** The round trip to the server and back, in milliseconds. */
  ping(): Promise<number>;
}
