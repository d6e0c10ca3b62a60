// @ts-check
/**
 * A WebSocket (RFC 6455) for binary messages, as client or server, without extensions: the small
 * part of the protocol that links need, so that the library has no dependencies.
 */

import { createHash, randomBytes } from "node:crypto";
import { request as requestPlain } from "node:http";
import { request as requestTls } from "node:https";

const EMPTY = Buffer.alloc(0);
const REASON_BYTES_MAX = 123;
/** Seawall pings every second: a connection without any bytes for so long is lost. */
const SILENCE_SECONDS_MAX = 10;
const OP = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** Ends a connection with a close code. */
export class WireError extends Error {
  constructor(message, code = 1002) {
    super(message);
    this.code = code;
  }
}

const unmask = (bytes, mask) => {
  for (let at = 0; at < bytes.length; at++) bytes[at] ^= mask[at & 3];
  return bytes;
};

/** A connection that has been upgraded. Calls `onMessage` with messages, and `onEnd` once. */
export class Wire {
  #socket;
  #isClient;
  #chunks = [];
  #held = 0;
  #frame;
  #parts;
  #partBytes = 0;
  #isOver = false;
  #silentSeconds = 0;
  #timer = setInterval(() => this.#watch(), 1000).unref();
  /** The longest message that is received. */
  bytesMax = 256 * 1024;

  constructor({ socket, isClient }, onMessage, onEnd) {
    this.#socket = socket;
    this.#isClient = isClient;
    this.onMessage = onMessage;
    this.onEnd = onEnd;
    socket.setTimeout(0).setNoDelay(true);
    socket.on("data", (chunk) => this.receive(chunk));
    for (const event of ["error", "end", "close"]) socket.on(event, () => this.end());
  }

  /** Sends one message. */
  send(buffers) {
    if (!this.#isOver) this.#write(OP.binary, buffers);
  }

  /** Calls `done` when the system has all that was sent, or never will. */
  awaitWritten(done) {
    if (this.#isOver) done();
    else this.#socket.write(EMPTY, () => done());
  }

  /** Ends the connection, with a close frame if there is a code. */
  end(code, reason = "") {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#timer);
    this.onEnd(reason || "the link has ended");
    if (code !== undefined && this.#socket.writable) {
      const body = Buffer.from(`\0\0${reason}`).subarray(0, 2 + REASON_BYTES_MAX);
      body.writeUInt16BE(code, 0);
      this.#write(OP.close, [body]);
    }
    this.#socket.end();
    setTimeout(() => this.#socket.destroy(), 2000).unref();
  }

  /** Counts seconds in which this process read nothing although it could. */
  #watch() {
    this.#silentSeconds += 1;
    if (this.#silentSeconds > SILENCE_SECONDS_MAX) this.end(1001, "no bytes for 10 s");
  }

  receive(chunk) {
    this.#silentSeconds = 0;
    if (this.#isOver || chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    try {
      while (!this.#isOver && this.#step());
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.end(error.code, error.message);
    }
  }

  /** Returns the next bytes, once there are so many. */
  #peek(count) {
    if (this.#held < count) return undefined;
    if ((this.#chunks[0]?.length ?? 0) < count) this.#chunks = [Buffer.concat(this.#chunks)];
    return count === 0 ? EMPTY : this.#chunks[0].subarray(0, count);
  }

  #skip(count) {
    this.#held -= count;
    if (count > 0) this.#chunks[0] = this.#chunks[0].subarray(count);
    if (this.#chunks[0]?.length === 0) this.#chunks.shift();
  }

  /** Reads a frame's head, or its payload; returns whether there may be more to read. */
  #step() {
    if (!this.#frame && !this.#readHead()) return false;
    const frame = this.#frame;
    const payload = this.#peek(frame.length);
    if (!payload) return false;
    this.#frame = undefined;
    this.#skip(frame.length);
    this.#take(frame, this.#isClient ? payload : unmask(payload, frame.mask));
    return true;
  }

  #readHead() {
    const start = this.#peek(2);
    if (!start) return false;
    const short = start[1] & 127;
    const size = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0);
    const head = this.#peek(size + (this.#isClient ? 0 : 4));
    if (!head) return false;
    let length = short;
    if (short === 126) length = head.readUInt16BE(2);
    if (short === 127) length = Number(head.readBigUInt64BE(2));
    const [opcode, isLast] = [head[0] & 15, head[0] >= 128];
    if (head[0] & 0x70) throw new WireError("a frame has a reserved bit");
    if (head[1] >= 128 === this.#isClient) throw new WireError("a frame is masked wrongly");
    if (opcode === OP.text) throw new WireError("a text message: a link has binary ones only");
    if (![0, 2, 8, 9, 10].includes(opcode)) throw new WireError("an unknown opcode");
    if (opcode >= 8 && (length > 125 || !isLast)) throw new WireError("a wrong control frame");
    if (opcode < 8 && (opcode === 0) !== (this.#parts !== undefined)) {
      throw new WireError("fragments are out of order");
    }
    if (opcode < 8 && this.#partBytes + length > this.bytesMax) {
      throw new WireError(`a message is longer than ${this.bytesMax} bytes`, 1009);
    }
    this.#frame = { opcode, isLast, length, mask: Buffer.from(head.subarray(size)) };
    this.#skip(head.length);
    return true;
  }

  #take({ opcode, isLast }, payload) {
    if (opcode === OP.ping) this.#write(OP.pong, [payload]);
    if (opcode === OP.close) this.end(payload.length < 2 ? 1000 : payload.readUInt16BE(0));
    if (opcode >= 8) return;
    const parts = [...(this.#parts ?? []), payload];
    this.#partBytes = isLast ? 0 : this.#partBytes + payload.length;
    this.#parts = isLast ? undefined : parts;
    if (isLast) this.onMessage(parts.length === 1 ? payload : Buffer.concat(parts));
  }

  #write(opcode, buffers) {
    const payload = Buffer.concat(buffers);
    const { length } = payload;
    const size = length < 126 ? 2 : length < 65536 ? 4 : 10;
    const head = Buffer.alloc(size);
    head[0] = 128 | opcode;
    head[1] = (this.#isClient ? 128 : 0) | (size === 2 ? length : size === 4 ? 126 : 127);
    if (size === 4) head.writeUInt16BE(length, 2);
    if (size === 10) head.writeBigUInt64BE(BigInt(length), 2);
    const mask = this.#isClient ? randomBytes(4) : EMPTY;
    this.#socket.cork();
    this.#socket.write(head);
    this.#socket.write(mask);
    this.#socket.write(this.#isClient ? unmask(payload, mask) : payload);
    this.#socket.uncork();
  }
}

const acceptKey = (key) =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");

/** Answers an upgrade with a status, and ends the connection. */
export function refuse(socket, status, fields = "") {
  socket.end(`HTTP/1.1 ${status}\r\n${fields}Content-Length: 0\r\nConnection: close\r\n\r\n`);
}

/** Answers an upgrade with 101; returns the connection, if the request was right. */
export function accept({ headers }, socket, subprotocol) {
  const key = headers["sec-websocket-key"];
  if (!key || headers["sec-websocket-version"] !== "13") {
    return refuse(socket, "426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n");
  }
  if (!(headers["sec-websocket-protocol"] ?? "").split(/\s*,\s*/).includes(subprotocol)) {
    return refuse(socket, "400 Bad Request");
  }
  socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    + `Sec-WebSocket-Accept: ${acceptKey(key)}\r\nSec-WebSocket-Protocol: ${subprotocol}\r\n\r\n`);
  return { socket, isClient: false };
}

/** Connects to a URL; resolves with the connection and its first bytes. */
export function dial(url, subprotocol, fields) {
  const key = randomBytes(16).toString("base64");
  const headers = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key,
    "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": subprotocol, ...fields,
  };
  const send = url.startsWith("wss:") ? requestTls : requestPlain;
  const request = send(url.replace(/^ws/, "http"), { headers, agent: false, timeout: 10_000 });
  return new Promise((resolve, reject) => {
    request.on("timeout", () => request.destroy(new Error("no answer within 10 s")));
    request.on("error", reject);
    request.on("response", (response) => {
      response.destroy();
      reject(new Error(`the answer is ${response.statusCode}, not 101`));
    });
    request.on("upgrade", (response, socket, head) => {
      const isRight = response.headers["sec-websocket-accept"] === acceptKey(key)
        && response.headers["sec-websocket-protocol"] === subprotocol;
      if (isRight) return resolve([{ socket, isClient: true }, head]);
      socket.destroy();
      return reject(new Error(`the answer is no upgrade to ${subprotocol}`));
    });
    request.end();
  });
}
