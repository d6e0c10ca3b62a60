// @ts-check
/**
 * The client library for Node: the same exports, and a `Seawall` that finds a WebSocket class by
 * itself. The package `ws` is preferred if it is installed, because it reports why a connection was
 * not made; from Node 22 on there is a global class.
 */

import { createRequire } from "node:module";
import { join } from "node:path";
import { Seawall as Client, SeawallError, Subscription } from "./seawall.js";

export { SeawallError, Subscription };

/** The class of `ws` as seen from this package, the program, or the working directory. */
function findWebSocket() {
  const folders = [import.meta.url, process.argv[1], join(process.cwd(), "package.json")];
  for (const from of folders) {
    try {
      return createRequire(from)("ws");
    } catch {
      // Not installed there.
    }
  }
  return globalThis.WebSocket;
}

export class Seawall extends Client {
  constructor(url, options = {}) {
    super(url, { ...options, WebSocket: options.WebSocket ?? findWebSocket() });
  }
}
