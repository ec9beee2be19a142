"""See what agents do behind a server: what its page shows, as frames of a stream.

The page itself is at the address: `webbrowser.open(url)`.
"""

import json
from queue import Queue
from threading import Thread
from urllib.request import Request, urlopen

from unspoken import Agent, Backbone, Edge, Pipeline, Settings
from unspoken.serving import ServedPipeline, serve

model = Backbone.from_pretrained("smollm2-135m-instruct")
agents = [Agent(name, model, settings=Settings(max_tokens=12)) for name in ("scout", "judge")]
pipeline = Pipeline(agents, [Edge("scout", "judge", "text")])
address = Queue()
given = {"port": 0, "ready": address.put}
Thread(target=serve, args=({"team": ServedPipeline(pipeline)},), kwargs=given, daemon=True).start()
url = address.get()
question = {"role": "user", "content": "Name three planets."}
asked = {"model": "team", "messages": [question], "stream": True, "unspoken": True}
headers = {"Content-Type": "application/json"}
with urlopen(Request(f"{url}/v1/chat/completions", json.dumps(asked).encode(), headers)) as stream:
    frames = [json.loads(line[6:]) for line in stream if line.startswith(b"data: {")]
for shown in (frame["unspoken"] for frame in frames if "unspoken" in frame):
    if shown["type"] in ("turn_started", "message", "turn_ended"):
        print(shown["type"], shown.get("agent") or f"{shown['from']} to {shown['to']}")

# It prints:
# turn_started scout
# message scout to judge
# turn_ended scout
# turn_started judge
# turn_ended judge
