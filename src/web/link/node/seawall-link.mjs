// @ts-check
/**
 * The application side of Seawall's links: sessions of clients, over the WebSockets that Seawall
 * nodes open to this process. README.md has examples, src/link/LINK.md the wire format.
 *
 *     import { Backend } from "seawall-link";
 *     const backend = new Backend({ message: (session, data) => session.send(data) });
 *     await backend.listen(8000);
 *
 * What it promises: messages of a session are handled one after the other, in order; sessions in
 * parallel. A message is acknowledged when its handler's promise resolves: if the process ends
 * before, it is delivered again. `close` is called once for each session that `open` has accepted.
 * All that is written in one turn of the event loop leaves in one WebSocket message.
 *
 * How it is built: link.mjs has links and sessions, body.mjs the bodies of their records,
 * websocket.mjs the WebSocket below a link.
 */

import { createHash, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { hostname } from "node:os";
import { Reject, encodeData } from "./body.mjs";
import { EMPTY, HANDLER_FAILED, KIND, Link, NO_SESSION, Session, handled } from "./link.mjs";
import { accept, dial, refuse } from "./websocket.mjs";

export { HANDLER_FAILED, Reject, Session };

const SUBPROTOCOL = "seawall.link.v1";

/** What an application has of Seawall: the sessions of its clients, on all links. */
export class Backend {
  #links = new Set();
  /** Sessions that are open, or whose handlers still run. */
  #active = new Set();
  #whenIdle = [];
  #servers = [];
  #tokens;
  #log;
  #isStopping = false;

  /**
   * @typedef {{ connection: string, address: string, path: string, query?: string, moved: boolean,
   *   headers?: Record<string, string>, subprotocols?: string[], user?: string, info?: any,
   *   state?: any }} Request `moved`: the session was on another link before
   * @param {{
   *   open?: (session: Session, request: Request) => any,
   *   message?: (session: Session, data: string | Buffer,
   *     meta: { binary: boolean, redelivered: boolean, number: number }) => any,
   *   close?: (session: Session, end: { code: number, reason: string, moved: boolean }) => any,
   *   slow?: (session: Session, bytes: number) => any,
   *   ready?: (session: Session, bytes: number) => any,
   *   ask?: (question: any, session?: Session) => any,
   *   drain?: () => any,
   * }} handlers each may return a promise
   * @param {{ token?: string | string[], instance?: string, capacity?: number,
   *   log?: { error: (...values: any[]) => void } }} options `token`: what nodes present (of
   *   several, each is valid); `capacity`: the share of sessions, relative to other instances
   */
  constructor(handlers, options = {}) {
    const { token = [], instance = `${hostname()}-${process.pid}`, capacity = 100 } = options;
    this.handlers = handlers;
    this.hello = { instance: instance.slice(0, 128), capacity };
    this.#tokens = [token].flat().map((one) => this.#digest(`Bearer ${one}`));
    this.#log = options.log ?? console;
  }

  /** All open sessions. */
  get sessions() {
    return [...this.#links].flatMap((link) => [...link.sessions.values()]);
  }

  /**
   * Takes links at a path of a server of node:http; upgrades of other paths are for others.
   * @param {import("node:http").Server} server
   */
  attach(server, path = "/seawall") {
    server.on("upgrade", (request, socket, head) => {
      if (request.url?.split("?")[0] === path) this.#upgrade(request, socket, head);
    });
  }

  /** Takes links at a port; resolves with the address once it listens. */
  listen(port, host = "127.0.0.1", path = "/seawall") {
    const server = createServer((_, response) => response.writeHead(426).end());
    this.#servers.push(server);
    this.attach(server, path);
    server.on("upgrade", ({ url }, socket) => {
      if (url?.split("?")[0] !== path) refuse(socket, "404 Not Found");
    });
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(port, host, () => resolve(server.address()));
    });
  }

  /**
   * Opens a link to a node (`ws://HOST:PORT/v1/link`), where nodes cannot reach this process, and
   * opens it again when it is lost. Resolves with the first.
   * @param {string} url @param {string} apiKey
   */
  async connectTo(url, apiKey) {
    for (let delay = 100; !this.#isStopping; delay = Math.min(delay * 2, 5000)) {
      try {
        const fields = { "Authorization": `Bearer ${apiKey}` };
        const [connection, head] = await dial(url, SUBPROTOCOL, fields);
        const link = this.#link(connection, head);
        link.ended.then(() => setTimeout(() => this.connectTo(url, apiKey), 200));
        return;
      } catch (error) {
        this.#log.error(`seawall-link: no link to ${url}:`, error);
      }
      await new Promise((resolve) => setTimeout(resolve, delay * (0.5 + Math.random())));
    }
  }

  /** Sends a message to many sessions, once on each link. */
  sendMany(sessions, data) {
    const [body, isBinary] = encodeData(data);
    const ofLinks = new Map();
    for (const session of sessions) {
      const [link, key] = session._target();
      if (!link) session.send(data);
      else if (ofLinks.has(link)) ofLinks.get(link).push(key);
      else ofLinks.set(link, [key]);
    }
    for (const link of ofLinks.keys()) link.checkLength(body.length);
    for (const [link, keys] of ofLinks) link.sendMany(keys, body, isBinary);
  }

  /** Has a node carry out a command of `POST /v1/batch`; rejects with an error with a `code`. */
  command(command) {
    const link = [...this.#links].find((one) => one.isReady);
    return link ? link.command(command) : handled(Promise.reject(new Error("there is no link")));
  }

  /** Moves all sessions to other instances; resolves once none is here. Exit then. */
  async drain() {
    this.#isStopping = true;
    for (const link of this.#links) link.write(KIND.drain, 0, NO_SESSION, 0, EMPTY);
    while (this.#active.size > 0) await new Promise((resolve) => this.#whenIdle.push(resolve));
    await Promise.all([...this.#links].map((link) => new Promise((done) => link.flush(done))));
  }

  /** Ends all links, and takes no more: sessions continue on other instances. */
  close() {
    this.#isStopping = true;
    for (const server of this.#servers) server.close();
    for (const link of [...this.#links]) {
      link.flush();
      link.wire.end(1001, "the backend stops");
    }
  }

  #digest(text) {
    return createHash("sha256").update(text).digest();
  }

  #upgrade(request, socket, head) {
    socket.on("error", () => {});
    const given = this.#digest(request.headers.authorization ?? "");
    const known = this.#tokens.filter((one) => timingSafeEqual(one, given));
    if (this.#tokens.length > 0 && known.length === 0) {
      return refuse(socket, "401 Unauthorized", "WWW-Authenticate: Bearer\r\n");
    }
    if (this.#isStopping) return refuse(socket, "503 Service Unavailable");
    const connection = accept(request, socket, SUBPROTOCOL);
    return connection && this.#link(connection, head);
  }

  #link(connection, head) {
    const link = new Link(this, connection);
    this.#links.add(link);
    link.wire.receive(head);
    return link;
  }

  /** @internal */
  _unlinked(link) {
    this.#links.delete(link);
  }

  /** @internal */
  _opened(session) {
    this.#active.add(session);
  }

  /** @internal */
  _finished(session) {
    this.#active.delete(session);
    if (this.#active.size === 0) this.#whenIdle.splice(0).forEach((resolve) => resolve());
  }

  /** @internal A node drains: its sessions will end or move. */
  async _drained() {
    try {
      await this.handlers.drain?.();
    } catch (error) {
      this._report("drain", undefined, error);
    }
  }

  /** @internal */
  _report(handler, session, error) {
    const of = session ? ` of ${session.connection}` : "";
    this.#log.error(`seawall-link: the handler ${handler}${of} failed:`, error);
  }
}
