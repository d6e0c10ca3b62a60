"""An application over the Python library, which does what its messages say: a script of the tests.
Prints `listening on PORT`, and then an event in JSON per line. TOKEN is what links present; PORT is
where it listens; with DIAL, it connects to that URL with the key KEY. SIGTERM drains it.
"""

import asyncio
import json
import os
import signal

from seawall_link import Backend, CommandError, Reject


def show(**event):
    print(json.dumps(event), flush=True)


class Application:
    def __init__(self):
        self.gates = {}
        self.instance = os.environ.get("INSTANCE", "app-1")
        self.backend = Backend(self, token=os.environ.get("TOKEN") or (), instance=self.instance)

    def gate(self, name):
        return self.gates.setdefault(name, asyncio.Event())

    async def open(self, session, request):
        show(event="open", connection=session.connection, path=session.path,
             address=session.address, moved=request["moved"], state=request.get("state"),
             user=request.get("user"), headers=request.get("headers"))
        query = request.get("query")
        if query and query.startswith("accept:"):
            return json.loads(query[len("accept:"):])
        if query == "long":
            raise Reject(429, "two\nlines " + "x" * 300)
        if query == "silent":
            raise Reject(401)
        if query == "reject":
            raise Reject(403, "not you")
        if query == "throw":
            raise RuntimeError("as asked")
        if query == "full":
            return {"user": "ann", "info": {"name": "Ann"}, "state": {"from": "open"},
                    "subprotocol": "x"}
        if query == "ann":
            return {"user": "ann", "state": {"from": "open"}}
        if query == "early":
            session.send("early")
        if query == "wait":
            await self.gate("open").wait()
        return None

    async def message(self, session, data, meta):
        text = data.decode() if meta.binary else data
        show(event="message", connection=session.connection, text=text, binary=meta.binary,
             redelivered=meta.redelivered, number=meta.number)
        if meta.binary:
            session.send(data)
            return
        name, *words = text.split(" ")
        command = getattr(self, f"do_{name}", None)
        if command:
            await command(session, *words)

    def close(self, session, end):
        show(event="close", connection=session.connection, **end._asdict())

    def slow(self, session, size):
        self.gate(f"slow {session.connection}").set()
        show(event="slow", connection=session.connection, bytes=size)

    def ready(self, session, size):
        self.gate(f"slow {session.connection}").clear()
        show(event="ready", connection=session.connection, bytes=size)

    def ask(self, question, session):
        if question["method"] == "throw":
            raise RuntimeError("as asked")
        connection = session.connection if session else None
        return {"content": {"sum": sum(question["content"]), "connection": connection}}

    def left(self, session, channel, reason):
        show(event="left", connection=session.connection, channel=channel, reason=reason)

    def drain(self):
        show(event="drain")

    async def do_echo(self, session, *words):
        session.send(" ".join(words))

    async def do_throw(self, session):
        raise RuntimeError("as asked")

    async def do_wait(self, session, name):
        await self.gate(name).wait()

    async def do_open(self, session, name):
        self.gate(name).set()

    async def do_many(self, session, text):
        self.backend.send_many(self.backend.sessions, text)

    async def do_manybinary(self, session, text):
        self.backend.send_many(self.backend.sessions, text.encode())

    async def do_receipt(self, session):
        asyncio.ensure_future(self.receive(session, session.send("with a receipt", receipt=True)))

    async def receive(self, session, receipt):
        try:
            await receipt
            show(event="sent", connection=session.connection)
        except ConnectionError:
            show(event="unsent", connection=session.connection)

    async def do_state(self, session, value):
        session.set_state({"value": value})

    async def do_json(self, session, *words):
        session.set_state(json.loads(" ".join(words)))

    async def do_close(self, session, code, reason):
        session.close(int(code), reason)

    async def do_slow(self, session):
        session.send(str(session.is_slow).lower())

    async def do_length(self, session, size):
        session.send("x" * int(size))

    async def do_command(self, session, channel):
        asyncio.ensure_future(self.publish(channel))

    async def publish(self, channel):
        try:
            result = await self.backend.command({"publish": {"channel": channel, "content": 1}})
            show(event="result", result=result)
        except CommandError as error:
            show(event="failed", code=error.code)
        except ConnectionError:
            show(event="failed", code="lost")

    async def do_join(self, session, channel):
        asyncio.ensure_future(self.join(session, channel, session.join(channel)))

    async def join(self, session, channel, joined):
        of = {"connection": session.connection, "channel": channel}
        try:
            await joined
            show(event="joined", **of, channels=sorted(session.channels))
        except CommandError as error:
            show(event="refused", **of, code=error.code)
        except ConnectionError:
            show(event="refused", **of, code="lost")

    async def do_leave(self, session, channel):
        session.leave(channel)

    async def do_channels(self, session):
        session.send(" ".join(sorted(session.channels)))

    async def do_publish(self, session, channel, *words):
        await self.backend.command({"publish": {"channel": channel, "content": " ".join(words)}})

    async def do_drain(self, session):
        asyncio.ensure_future(self.drain_all())

    async def drain_all(self):
        await self.backend.drain()
        show(event="drained")

    async def do_stop(self, session):
        self.backend.close()

    async def do_who(self, session):
        session.send(json.dumps({"connection": session.connection, "user": session.user,
                                 "state": session.state, "instance": self.instance}))

    async def do_fill(self, session):
        """Sends until the client is known to be slow."""
        sent, count = [], 0
        while not session.is_slow:
            sent.append(session.send("x" * 65536, receipt=True))
            # Two are queued behind the one that waits.
            if len(sent) > 2:
                slow = asyncio.ensure_future(self.gate(f"slow {session.connection}").wait())
                await asyncio.wait([sent.pop(0), slow], return_when=asyncio.FIRST_COMPLETED)
                slow.cancel()
            count += 1
        show(event="filled", count=count)

    async def do_flood(self, session, count):
        for _ in range(int(count)):
            session.send("x" * 65536)


async def main():
    backend = Application().backend
    _, port = await backend.listen(int(os.environ.get("PORT", "0")))
    print(f"listening on {port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if os.environ.get("DIAL"):
        await backend.connect_to(os.environ["DIAL"], os.environ["KEY"])
    await stop.wait()
    await backend.drain()


asyncio.run(main())
