"""Pysher as a client, and the library `pusher` as its backend.

python with_pysher.py MODULES PORT
"""

import json
import os
import queue
import sys

import pusher
import pysher

_, _, port = sys.argv

backend = pusher.Pusher(
    app_id="1", key="key-1", secret="secret-1", host="127.0.0.1", port=int(port), ssl=False
)
heard = queue.Queue()


def expect(expected):
    found = heard.get(timeout=60)
    assert found == expected, (found, expected)


client = pysher.Pusher(
    "key-1",
    custom_host="127.0.0.1",
    port=int(port),
    secure=False,
    secret="secret-1",
    user_data={"user_id": "ann", "user_info": {"name": "Ann"}},
)


def note(event):
    return lambda data: heard.put((event, json.loads(data) if data else data))


def connected(_data):
    for name in ["news", "private-a", "presence-a"]:
        channel = client.subscribe(name)
        channel.bind("pusher_internal:subscription_succeeded", note(f"subscribed {name}"))
        channel.bind("order", note(f"order {name}"))


client.connection.bind("pusher:connection_established", connected)
client.connect()
members = {"count": 1, "ids": ["ann"], "hash": {"ann": {"name": "Ann"}}}
# The replies of different channels come in any order.
replies = dict(heard.get(timeout=60) for _ in range(3))
assert replies == {
    "subscribed news": {},
    "subscribed private-a": {},
    "subscribed presence-a": {"presence": members},
}, replies
for name in ["news", "private-a", "presence-a"]:
    backend.trigger(name, "order", {"number": 1})
    expect((f"order {name}", {"number": 1}))
backend.trigger_batch([{"channel": "news", "name": "order", "data": {"number": 2}}])
expect(("order news", {"number": 2}))

assert backend.channels_info("presence-", ["user_count"]) == {
    "channels": {"presence-a": {"user_count": 1}}
}
assert backend.users_info("presence-a") == {"users": [{"id": "ann"}]}
info = backend.channel_info("presence-a", ["subscription_count", "user_count"])
assert info == {"occupied": True, "subscription_count": 1, "user_count": 1}, info

# Ends at once: `disconnect` waits for a timer of the library.
print("works", flush=True)
os._exit(0)
