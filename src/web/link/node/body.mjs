// @ts-check
/**
 * Bodies of records, encoded and decoded. A wrong body from Seawall ends the link. What a handler
 * wants to send is checked before: a wrong record of ours would end the link as well, and with it
 * the sessions of other clients, whose data may be what is wrong.
 */

import { WireError } from "./websocket.mjs";

const REJECT_CHARS_MAX = 200;
const USER_BYTES_MAX = 256;
const INFO_BYTES_MAX = 1024;
export const STATE_BYTES_MAX = 4096;
const ACCEPT_BYTES_MAX = 64 * 1024;
const EXPIRES_S_MAX = 31_536_000;
/** Nesting of JSON that Seawall keeps. */
const LEVELS_MAX = 64;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Thrown or returned by `open`: the client gets this HTTP status (401, 403, 429 or 503). */
export class Reject extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message = "") {
    // One line, well-formed.
    const line = Buffer.from(message).toString().replace(/\p{Cc}/gu, " ");
    super([...line].slice(0, REJECT_CHARS_MAX).join(""));
    if (![401, 403, 429, 503].includes(status)) {
      throw new RangeError(`a client is rejected with 401, 403, 429 or 503, not ${status}`);
    }
    this.status = status;
  }
}

/** Runs a decoder; what it cannot decode ends the link. */
const decode = (decoder, bytes) => {
  try {
    return decoder(bytes);
  } catch {
    throw new WireError("a body is not UTF-8, or not JSON");
  }
};
export const decodeText = (bytes) => decode((text) => utf8.decode(text), bytes);
export const decodeJson = (bytes) => decode((text) => JSON.parse(utf8.decode(text)), bytes);
export const encodeJson = (value) => Buffer.from(JSON.stringify(value));

/** Encodes JSON that every reader can represent: Seawall ends a link for other JSON. */
export const encodeKept = (name, value, bytesMax, levelsMax = LEVELS_MAX) => {
  const text = JSON.stringify(value ?? null);
  const body = Buffer.from(text);
  if (body.length > bytesMax) throw new RangeError(`${name} has at most ${bytesMax} bytes`);
  // JSON.stringify escapes surrogates only where their other half is missing.
  if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(text)) {
    throw new RangeError(`${name} has half a surrogate pair`);
  }
  let level = 0;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/g)) {
    if (token === "[" || token === "{") level += 1;
    if (token === "]" || token === "}") level -= 1;
    if (level > levelsMax) throw new RangeError(`${name} has at most ${levelsMax} levels`);
  }
  return body;
};

/** Encodes what a handler accepts. */
export const encodeAccept = (answer, { moved, subprotocols = [] }) => {
  const { user, info, state, subprotocol, expires_in_s: seconds } = answer;
  const length = typeof user === "string" ? Buffer.byteLength(user) : 0;
  if ((user ?? undefined) !== undefined && (length < 1 || length > USER_BYTES_MAX)) {
    throw new RangeError(`user is text of 1 to ${USER_BYTES_MAX} bytes`);
  }
  encodeKept("info", info, INFO_BYTES_MAX);
  encodeKept("state", state, STATE_BYTES_MAX);
  if (subprotocol && !moved && !subprotocols.includes(subprotocol)) {
    throw new RangeError("subprotocol is one that the client offers");
  }
  const isTime = Number.isInteger(seconds) && seconds >= 1 && seconds <= EXPIRES_S_MAX;
  if ((seconds ?? undefined) !== undefined && !isTime) {
    throw new RangeError(`expires_in_s is an integer from 1 to ${EXPIRES_S_MAX}`);
  }
  return encodeKept("accept", answer, ACCEPT_BYTES_MAX, LEVELS_MAX + 1);
};

/** @param {string | Uint8Array} data @returns {[Buffer, boolean]} the bytes, whether binary */
export const encodeData = (data) => {
  if (typeof data === "string") return [Buffer.from(data), false];
  if (!(data instanceof Uint8Array)) throw new TypeError("data is a string or a Uint8Array");
  return [Buffer.from(data.buffer, data.byteOffset, data.byteLength), true];
};
