"""Serve a pipeline as a model of OpenAI's API, and ask it over HTTP."""

import json
from queue import Queue
from threading import Thread
from urllib.request import Request, urlopen

from unspoken import Agent, Backbone, Pipeline, Role, Settings
from unspoken.serving import ServedPipeline, serve

model = Backbone.from_pretrained("smollm2-135m-instruct")
role = Role("Answer in one short sentence.", "{question}")
pipeline = Pipeline([Agent("clerk", model, role=role, settings=Settings(max_tokens=16))])
address = Queue()
given = {"port": 0, "ready": address.put}  # any free port; `ready` gets the address
Thread(target=serve, args=({"team": ServedPipeline(pipeline)},), kwargs=given, daemon=True).start()
question = {"role": "user", "content": "What is the capital of France?"}
body = json.dumps({"model": "team", "messages": [question]}).encode()
headers = {"Content-Type": "application/json"}
with urlopen(Request(f"{address.get()}/v1/chat/completions", body, headers)) as response:
    answer = json.load(response)
print(answer["model"], answer["choices"][0]["finish_reason"])
print(answer["choices"][0]["message"]["content"])

# It prints:
# team stop
# The capital of France is Paris.
