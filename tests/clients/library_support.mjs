// What the tests of the client library share: waiting for events, and a clock that is moved by hand.

import { createRequire } from "node:module";

export const packages = new URL("../../.cache/node/", import.meta.url);
export const ws = createRequire(packages)("ws");
/** Delays short enough not to be felt. */
export const FAST = { WebSocket: ws, minDelayMs: 1, maxDelayMs: 4 };

/** The next event, or the next for which `wanted` holds. */
export function next(source, event, wanted = () => true) {
  return new Promise((resolve) => {
    const listener = (value) => {
      if (!wanted(value)) return;
      source.off(event, listener);
      resolve(value);
    };
    source.on(event, listener);
  });
}

export const state = (sw, wanted) => next(sw, "state", (change) => change.state === wanted);

/** Records all events of a subscription, in order. */
export function record(sub) {
  const received = [];
  for (const event of ["message", "gap", "join", "leave", "unsubscribed", "error", "subscribed", "presenceGap"]) {
    sub.on(event, (value) => received.push({ event, ...value }));
  }
  return received;
}

export const contents = (received) => received.filter((one) => one.event === "message").map((one) => one.content);

export const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

export async function until(holds) {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}

/** A clock that is moved by hand, and can be set wrong. */
export class Clock {
  at = 0;
  timers = new Map();
  /** By how much the two readings are off (ms). */
  aheadMs = 0;
  wallAheadMs = 0;
  now = () => this.at + this.aheadMs;
  wall = () => Date.now() + this.wallAheadMs;
  setTimeout = (call, ms) => {
    const timer = Symbol("timer");
    this.timers.set(timer, { call, due: this.at + ms, ms });
    return timer;
  };
  clearTimeout = (timer) => this.timers.delete(timer);

  pass(ms) {
    const end = this.at + ms;
    for (;;) {
      const [first] = [...this.timers].filter(([, one]) => one.due <= end)
        .sort(([, one], [, other]) => one.due - other.due);
      if (!first) break;
      this.timers.delete(first[0]);
      this.at = first[1].due;
      first[1].call();
    }
    this.at = end;
  }
}
