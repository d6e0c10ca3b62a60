// The playground: two people chat, one cuts the connection, nothing is lost. Everything that comes
// from others is set as text.

import { Seawall } from "/seawall.js";

const PING_MS = 1000;
const CUT_MS = 3000;
/** Of the newest pings: a minute and a bit more. */
const PINGS_MAX = 1000;
const MESSAGES_MAX = 500;

const byId = (id) => document.getElementById(id);
const wished = new URLSearchParams(location.search);
const url = new URL("/ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";

const client = new Seawall(url.href, { token: wished.get("token") ?? undefined });
const names = new Map();
const pings = [];
let members = new Map();
let joined = null;
/** What came while a cut lasted; `null` when none does. */
let cut = null;

byId("name").value = wished.get("name") ?? `guest-${Math.floor(Math.random() * 900) + 100}`;
byId("channel").value = wished.get("channel") ?? "chat:lobby";

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

/** Whoever has no token is known by name from its first message on, until it comes back anew. */
const nameOf = (one) =>
  one ? one.user ?? names.get(one.connection) ?? "a guest" : "the server";

function show({ content, from, time, recovered }) {
  const { name, text } = content ?? {};
  if (typeof text !== "string") return note(`${nameOf(from)}: ${JSON.stringify(content)}`);
  if (from && typeof name === "string" && !names.has(from.connection)) {
    names.set(from.connection, name.slice(0, 40));
    showMembers();
  }
  const line = element("li", text);
  const at = new Date(time ?? Date.now()).toLocaleTimeString();
  line.prepend(element("small", `${name ?? nameOf(from)}, ${at}${recovered ? ", recovered" : ""}`));
  append(line);
}

async function say(text) {
  // Shown at once, and its own line is not sent back.
  const line = element("li", text, "mine waiting");
  line.prepend(element("small", `${byId("name").value}, on its way`));
  append(line);
  byId("messages").scrollTop = byId("messages").scrollHeight;
  try {
    await joined.publish({ name: byId("name").value, text }, { echo: false });
    line.className = "mine";
    line.firstChild.textContent = `${byId("name").value}, ${new Date().toLocaleTimeString()}`;
    // Its place in the channel is known only now: behind what was recovered meanwhile.
    append(line);
  } catch (error) {
    line.firstChild.textContent = `not sent: ${error.message}`;
    line.firstChild.className = "bad";
  }
}

// ---- Members. ----

function showMembers() {
  const lines = [...members.values()].map((member) => {
    const me = member.connection === client.connection;
    return element("li", me ? `${byId("name").value} (you)` : nameOf(member));
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
  } catch (error) {
    note(`members are not known: ${error.message}`);
  }
  showMembers();
}

// ---- The channel. ----

function join() {
  joined?.unsubscribe();
  byId("messages").replaceChildren();
  members = new Map();
  showMembers();
  const channel = byId("channel").value;
  const subscription = client.subscribe(channel, { presence: true });
  joined = subscription;
  const shown = new URL(location.href);
  shown.searchParams.set("channel", channel);
  shown.searchParams.set("name", byId("name").value);
  history.replaceState(null, "", shown);
  subscription.on("message", (message) => {
    if (cut && message.recovered) cut.recovered += 1;
    show(message);
    if (cut) tellRecovery();
  });
  subscription.on("gap", ({ from, to }) => {
    const known = from.epoch === to.epoch;
    const range = known ? `${from.offset + 1} to ${to.offset}` : "an unknown number";
    note(`messages are gone: ${range}`, "bad");
  });
  subscription.on("subscribed", ({ recovered, offset }) => {
    if (cut) {
      cut.back = true;
      cut.lost ||= !recovered;
      cut.missed = offset - cut.offset;
      tellRecovery();
    } else {
      note(`you are in ${channel}`);
    }
    readMembers(subscription);
  });
  subscription.on("join", ({ member }) => {
    members.set(keyOf(member), member);
    showMembers();
  });
  subscription.on("leave", ({ member }) => {
    members.delete(keyOf(member));
    showMembers();
  });
  subscription.on("error", ({ message }) => note(`not in ${channel}: ${message}`, "bad"));
}

// ---- Cutting. ----

function cutConnection() {
  if (!joined?.live) return;
  cut = { offset: joined.position.offset, recovered: 0, back: false, lost: false };
  byId("cut").disabled = true;
  byId("recovery").className = "";
  byId("recovery").textContent = "cut: write something in the other window";
  client.reconnect({ afterMs: CUT_MS });
}

/** Speaks of success only when the last message that was missed has come. */
function tellRecovery() {
  if (!cut?.back) return;
  const told = byId("recovery");
  if (cut.lost) {
    told.className = "bad";
    told.textContent = "history was too short: some messages are gone, and you were told so";
  } else if (joined.position.offset - cut.offset >= cut.missed) {
    told.className = "good";
    const count = cut.recovered === 1 ? "1 message was" : `${cut.recovered} messages were`;
    told.textContent = `back: ${count} recovered, none was missed`;
  } else {
    told.textContent = `back: ${cut.recovered} of ${cut.missed} messages so far`;
    return;
  }
  cut = null;
  byId("cut").disabled = false;
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
    pings.push(await client.ping());
    if (pings.length > PINGS_MAX) pings.shift();
    showLatency();
  } catch {
    // The connection was lost meanwhile; its state is shown elsewhere.
  }
}

// ---- The connection. ----

client.on("state", ({ state, delayMs, error }) => {
  const texts = {
    connecting: "connecting",
    open: "connected",
    waiting: `again in ${(delayMs / 1000).toFixed(1)} s`,
    closed: `closed: ${error?.message}`,
  };
  byId("state").dataset.state = state;
  byId("state").textContent = texts[state];
  // A cut that the server answers for good leaves nothing to wait for.
  if (state === "closed") byId("cut").disabled = true;
});
client.on("error", ({ message }) => note(message, "bad"));
client.on("message", ({ content }) => note(`to you alone: ${JSON.stringify(content)}`));

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  if (joined?.channel === byId("channel").value) return showMembers();
  join();
});
byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  say(byId("text").value);
  byId("text").value = "";
});
byId("cut").addEventListener("click", cutConnection);

join();
client.connect();
setInterval(measure, PING_MS);
