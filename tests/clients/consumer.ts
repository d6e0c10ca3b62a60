// A program that uses all of the client library, to be checked by a strict compiler. Lines marked
// as errors must not compile.

import { Seawall, SeawallError } from "seawall";
import type { ErrorCode, Message, Position, Published, Subscription } from "seawall";

const client = new Seawall(new URL("wss://example.com/ws"), {
  token: async () => "a.b.c",
  maxDelayMs: 10_000,
});

client.on("state", ({ state, previous, delayMs }) => {
  const told: string = `${previous} ${state} ${delayMs ?? 0}`;
  return told;
});
client.once("open", ({ connection, resumed }) => [connection.length, resumed === true]);
client.on("error", (error) => {
  const code: ErrorCode = error.code;
  return error instanceof SeawallError && code === "expired";
});
client.on("engine", ({ state }) => state === client.engine);
client.on("subscription", (one: Subscription) => one.channel);

interface Chat {
  text: string;
}

const chat = client.subscribe<Chat>("chat:typed");
chat.on("message", ({ content }) => content.text.length);
chat.on("unsubscribed", ({ reason }) => reason.length);
client.on("error", ({ code, remedy }) => [code.length, remedy?.length]);

const last: Position = { epoch: "0123456789abcdef", offset: 7 };
const room = client.subscribe("chat:lobby", { presence: true, since: last });
room
  .on("message", ({ content, from, recovered }) => [content.text, from?.user, recovered])
  .on("join", ({ member }) => member.connection)
  .on("gap", ({ from, to }) => to.offset - from.offset)
  .on("subscribed", ({ presence }) => presence?.members.length);

export async function run(): Promise<number> {
  await client.connect();
  const { recovered } = await room.ready;
  const published: Published = await room.publish({ text: "hello" }, { echo: false, key: "k" });
  const { messages } = await room.history({ limit: 10, reverse: true, since: published });
  const { count, next } = await client.presence("chat:lobby", { limit: 5 });
  const page = next === undefined ? null : await room.presence({ after: next });
  for await (const message of room) {
    const one: Message = message;
    if (one.offset > count) break;
  }
  await room.unsubscribe();
  client.reconnect({ afterMs: 100 });
  client.close(1000, "done");
  for await (const { content } of chat) if (content.text) break;
  const { messages: typed } = await chat.history();
  const texts: string[] = typed.map(({ content }) => content.text);
  await chat.publish({ text: texts.join() });
  // @ts-expect-error: the content has no such field.
  chat.on("message", ({ content }) => content.txt);
  // @ts-expect-error: it is not of the channel's type.
  await chat.publish("hello");
  // @ts-expect-error: there is no such event.
  room.on("massage", () => {});
  // @ts-expect-error: a channel is a string.
  client.subscribe(7);
  // @ts-expect-error: subscriptions are made by the client.
  new Subscription(client, "a");
  return (await client.ping()) + messages.length + Number(recovered) + (page?.count ?? 0);
}
