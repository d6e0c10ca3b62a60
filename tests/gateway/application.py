"""An application over the Python library, which does what its messages say: a script of the tests.
Prints `listening on PORT`, and then an event in JSON per line. TOKEN is what links present; with
DIAL, it connects to that URL with the key KEY.
"""

import asyncio
import json
import os

from seawall_link import Backend, CommandError, Reject


def show(**event):
    print(json.dumps(event), flush=True)


class Application:
    def __init__(self):
        self.gates = {}
        self.backend = Backend(self, token=os.environ.get("TOKEN") or (), instance="app-1")

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
        show(event="slow", connection=session.connection, bytes=size)

    def ready(self, session, size):
        show(event="ready", connection=session.connection, bytes=size)

    def ask(self, question, session):
        if question["method"] == "throw":
            raise RuntimeError("as asked")
        connection = session.connection if session else None
        return {"content": {"sum": sum(question["content"]), "connection": connection}}

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

    async def do_drain(self, session):
        asyncio.ensure_future(self.drain_all())

    async def drain_all(self):
        await self.backend.drain()
        show(event="drained")

    async def do_stop(self, session):
        self.backend.close()


async def main():
    backend = Application().backend
    _, port = await backend.listen(0)
    print(f"listening on {port}", flush=True)
    if os.environ.get("DIAL"):
        await backend.connect_to(os.environ["DIAL"], os.environ["KEY"])
    await asyncio.Event().wait()


asyncio.run(main())
