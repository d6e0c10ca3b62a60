// The playground: two people chat, one cuts the connection, nothing is lost. Everything that comes
// from others is set as text. All addresses are relative, so that it works behind a path prefix.

import { Seawall } from "./seawall.js";

const PING_MS = 1000;
const CUT_MS = 3000;
const COUNT_DOWN_MS = 100;
/** Round trips of the newest pings. */
const PINGS_MAX = 1000;
const MESSAGES_MAX = 500;
/** In larger channels, names come only from messages. */
const GREETED_MAX = 10;
const TOKEN = "seawall-token";

const byId = (id) => document.getElementById(id);
const parameters = new URLSearchParams(location.search);
const url = new URL("ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
url.search = url.hash = "";

const names = new Map();
const pings = [];
let client = null;
let members = new Map();
let joined = null;
/** Messages received during a cut; `null` without one. */
let cut = null;
/** The first round trip of a connection includes its warm-up. */
let isCold = true;
let retryAt = 0;

byId("name").value = parameters.get("name") ?? `guest-${Math.floor(Math.random() * 900) + 100}`;
byId("channel").value = parameters.get("channel") ?? "chat:lobby";
// A token does not stay in the address, which is copied and kept in the browser's history.
if (parameters.has("token")) sessionStorage.setItem(TOKEN, parameters.get("token"));

// ---- Messages. ----

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function append(line) {
  const list = byId("messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(line);
  while (list.children.length > MESSAGES_MAX) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const note = (text, className = "") => append(element("li", text, `note ${className}`));

/** Users are named by their token, others by their messages. */
const nameOf = (one) =>
  one ? one.user ?? names.get(one.connection) ?? "a guest" : "the server";

function learnName({ content, from }) {
  const name = content?.name;
  if (!from || typeof name !== "string" || names.get(from.connection) === name) return;
  names.set(from.connection, name.slice(0, 40));
  showMembers();
}

function show({ content, from, time, recovered }) {
  learnName({ content, from });
  const { name, text, isGreeting } = content ?? {};
  if (isGreeting) return;
  if (typeof text !== "string") return note(`${nameOf(from)}: ${JSON.stringify(content)}`);
  const line = element("li", text);
  const at = new Date(time ?? Date.now()).toLocaleTimeString();
  line.prepend(element("small", `${name ?? nameOf(from)}, ${at}${recovered ? ", recovered" : ""}`));
  append(line);
}

async function say(text) {
  // Shown at once; the server does not send it back.
  const line = element("li", text, "mine waiting");
  line.prepend(element("small", `${byId("name").value}, sending`));
  append(line);
  byId("messages").scrollTop = byId("messages").scrollHeight;
  try {
    await joined.publish({ name: byId("name").value, text }, { echo: false });
    line.className = "mine";
    line.firstChild.textContent = `${byId("name").value}, ${new Date().toLocaleTimeString()}`;
    // Its place in the channel is known only now: after what was recovered meanwhile.
    append(line);
  } catch (error) {
    line.firstChild.textContent = `not sent: ${error.message}`;
    line.firstChild.className = "bad";
  }
}

/** Publishes this page's name for its connection. Other channels may belong to applications. */
function greet() {
  if (!joined?.live || !joined.channel.startsWith("chat:")) return;
  joined.publish({ name: byId("name").value, isGreeting: true }, { echo: false }).catch(() => {});
}

// ---- Members. ----

function showMembers() {
  const lines = [...members.values()].map((member) => {
    const isMe = member.connection === client.connection || (client.user !== null
      && member.user === client.user);
    return element("li", isMe ? `${member.user ?? byId("name").value} (you)` : nameOf(member));
  });
  byId("members").replaceChildren(...lines);
  byId("count").textContent = members.size ? `(${members.size})` : "";
}

const keyOf = ({ user, connection }) => user ?? connection;

async function readMembers(subscription) {
  try {
    const { members: found } = await subscription.presence({ limit: 100 });
    if (subscription !== joined) return;
    members = new Map(found.map((member) => [keyOf(member), member]));
    const { messages } = await subscription.history({ limit: 100, reverse: true });
    // The newest comes first; names that are known by now are newer still.
    for (const one of messages) if (one.from && !names.has(one.from.connection)) learnName(one);
  } catch (error) {
    note(`members or their names are not known: ${error.message}`);
  }
  showMembers();
}

// ---- The channel. ----

function join() {
  joined?.unsubscribe();
  byId("messages").replaceChildren();
  members = new Map();
  const channel = byId("channel").value;
  const subscription = client.subscribe(channel, { presence: true });
  joined = subscription;
  showMembers();
  const shown = new URL(location.href);
  shown.searchParams.delete("token");
  shown.searchParams.set("channel", channel);
  shown.searchParams.set("name", byId("name").value);
  history.replaceState(null, "", shown);
  subscription.on("message", (message) => {
    if (cut && message.recovered && !message.content?.isGreeting) cut.recovered += 1;
    show(message);
    if (cut) showRecovery();
  });
  subscription.on("gap", ({ from, to }) => {
    const isKnown = from.epoch === to.epoch;
    const range = isKnown ? `${from.offset + 1} to ${to.offset}` : "an unknown number";
    note(`messages are lost: ${range}`, "bad");
  });
  subscription.on("subscribed", ({ recovered, offset }) => {
    if (cut) {
      cut.isBack = true;
      cut.hasLost ||= !recovered;
      cut.missed = offset - cut.offset;
      showRecovery();
    } else {
      note(`you are in ${channel}`);
    }
    greet();
    readMembers(subscription);
  });
  subscription.on("join", ({ member }) => {
    members.set(keyOf(member), member);
    showMembers();
    if (members.size <= GREETED_MAX) greet();
  });
  subscription.on("leave", ({ member }) => {
    members.delete(keyOf(member));
    showMembers();
  });
  subscription.on("error", (error) => {
    // The error that ends the client is shown above.
    if (client.state === "open" && error.code !== "unauthorized") {
      note(`not in ${channel}: ${error.message}`, "bad");
    }
  });
}

// ---- Cutting. ----

function cutConnection() {
  if (!joined?.live) return;
  cut = { offset: joined.position.offset, recovered: 0, isBack: false, hasLost: false };
  byId("cut").disabled = true;
  byId("recovery").className = "";
  byId("recovery").textContent = "cut: write something in the other window";
  client.reconnect({ afterMs: CUT_MS });
}

/** Reports success only when the last missed message has arrived. */
function showRecovery() {
  if (!cut?.isBack) return;
  const shown = byId("recovery");
  if (cut.hasLost) {
    shown.className = "bad";
    shown.textContent = "back: the channel's history was too short, and the gap was reported";
  } else if (joined.position.offset - cut.offset >= cut.missed) {
    shown.className = "good";
    const count = cut.recovered === 1 ? "1 message was" : `${cut.recovered} messages were`;
    shown.textContent = `back: ${count} recovered, none was missed`;
  } else {
    shown.textContent = `back: ${cut.recovered} of ${cut.missed} messages so far`;
    return;
  }
  cut = null;
  byId("cut").disabled = client.state !== "open";
}

// ---- Round trips. ----

function showLatency() {
  const sorted = [...pings].sort((one, other) => one - other);
  const at = (share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
  const text = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  for (const [id, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99], ["max", 1]]) {
    byId(id).textContent = text(at(share));
  }
  byId("pings").textContent = pings.length === 1 ? "(1 ping)" : `(${pings.length} pings)`;
}

async function measure() {
  // A hidden page is slowed down by the browser and would measure that.
  if (client.state !== "open" || document.hidden) return;
  try {
    const ms = await client.ping();
    if (isCold) {
      isCold = false;
      return;
    }
    pings.push(ms);
    if (pings.length > PINGS_MAX) pings.shift();
    showLatency();
  } catch {
    // The connection was lost meanwhile; its state is shown elsewhere.
  }
}

// ---- The connection. ----

function showProblem(text) {
  byId("problem").hidden = !text;
  byId("problem").textContent = text;
}

/** Shows either the token form, or everything else. */
function showSignIn(isWanted) {
  byId("sign-in").hidden = !isWanted;
  byId("who").hidden = byId("columns").hidden = isWanted;
}

/** Asks for another token if the present one is missing or insufficient. */
function askForToken({ message, remedy }) {
  // A missing token is not an error: the form says what to do.
  const hadToken = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  showProblem(hadToken ? message.replace(`; ${remedy}`, "") : "");
  showSignIn(true);
  byId("state").dataset.state = "closed";
  byId("state").textContent = "not signed in";
}

const TOKEN_ERRORS = ["unauthorized", "expired"];

function showState({ state, delayMs, reason, error }) {
  const isRefused = TOKEN_ERRORS.includes(error?.code);
  const texts = {
    connecting: "connecting",
    open: "connected",
    closed: isRefused ? "not signed in" : "closed",
  };
  byId("state").dataset.state = state;
  byId("state").title = reason ?? "";
  if (state === "waiting") {
    retryAt = performance.now() + delayMs;
    countDown();
  } else {
    byId("state").textContent = texts[state];
  }
  if (state === "open") {
    isCold = true;
    showProblem("");
    showSignIn(false);
  }
  byId("cut").disabled = state !== "open" || cut !== null;
}

function countDown() {
  if (client.state !== "waiting") return;
  const seconds = Math.max(0, retryAt - performance.now()) / 1000;
  byId("state").textContent = `reconnecting in ${seconds.toFixed(1)} s`;
}

function connect() {
  const previous = client;
  client = null;
  previous?.close();
  const connection = new Seawall(url.href, { token: sessionStorage.getItem(TOKEN) ?? undefined });
  client = connection;
  pings.length = 0;
  const isCurrent = () => client === connection;
  connection.on("state", (change) => isCurrent() && showState(change));
  connection.on("error", (error) => {
    if (!isCurrent()) return;
    if (TOKEN_ERRORS.includes(error.code)) askForToken(error);
    else showProblem(error.message);
  });
  connection.on("message", ({ content }) => note(`to you alone: ${JSON.stringify(content)}`));
  joined = null;
  join();
  connection.connect().catch(() => {
    // An `error` event reports it as well.
  });
}

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  if (joined?.channel !== byId("channel").value) return join();
  showMembers();
  greet();
});
byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  connect();
});
byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  say(byId("text").value);
  byId("text").value = "";
});
byId("cut").addEventListener("click", cutConnection);

connect();
setInterval(measure, PING_MS);
setInterval(countDown, COUNT_DOWN_MS);
