"""A chat with rooms, for a gateway route: `python3 chat.py`, with PORT and LINK_TOKEN if need be.

The room is the path's last part (`/chat/lobby?name=ann`), or the one of the last `/room NAME`.
"""

import asyncio
import json
import os
import re
import signal
from collections import defaultdict
from urllib.parse import parse_qs

from seawall_link import Backend, Reject


def is_word(text):
    return re.fullmatch(r"[\w-]{1,64}", text) is not None


class Chat:
    def __init__(self):
        self.rooms = defaultdict(set)
        self.backend = Backend(self, token=os.environ.get("LINK_TOKEN") or ())

    def say(self, room, event):
        self.backend.send_many(self.rooms[room], json.dumps(event))

    # A session that was moved here, by a deploy or a failure, brings its state along.
    def open(self, session, request):
        name = parse_qs(request.get("query", "")).get("name", [""])[0]
        state = session.state or {"name": name, "room": session.path.split("/")[-1]}
        # Before anything is changed: a client that is rejected gets no `close`.
        if not is_word(state["name"]):
            raise Reject(401, "add ?name=YOURS to the URL, 1 to 64 letters")
        if not is_word(state["room"]):
            raise Reject(403, "the path ends with a room of 1 to 64 letters")
        self.rooms[state["room"]].add(session)
        if not request["moved"]:
            self.say(state["room"], {"joined": state["name"]})
        return {"user": state["name"], "state": state}

    # A message may be delivered again after a failure: `id` lets clients drop repeats.
    def message(self, session, text, meta):
        name, room = session.state["name"], session.state["room"]
        if meta.binary:
            return session.close(4003, "send text")
        if not text.startswith("/room ") or not is_word(text[len("/room ") :]):
            message = {"id": f"{session.connection}/{meta.number}", "from": name, "text": text}
            return self.say(room, message)
        self.rooms[room].discard(session)
        self.say(room, {"left": name})
        session.set_state({"name": name, "room": text[len("/room ") :]})
        self.rooms[session.state["room"]].add(session)
        return self.say(session.state["room"], {"joined": name})

    def close(self, session, end):
        self.rooms[session.state["room"]].discard(session)
        if not end.moved:
            self.say(session.state["room"], {"left": session.state["name"]})


async def main():
    backend = Chat().backend
    _, port = await backend.listen(int(os.environ.get("PORT", "8000")))
    print(f"listening on {port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await backend.drain()


asyncio.run(main())
