"""One question over two channels: words, and the cache of the agent that has read the note."""

from unspoken import Agent, Backbone, Edge, Pipeline, Role, make_channel

model = Backbone.from_pretrained("smollm2-135m-instruct")
reader = Agent("reader", model, role=Role("You read a note.", "{context}"))
task = "{messages}Question: {question}"
solver = Agent("solver", model, role=Role("Answer in one short sentence.", task))
note = {"context": "The key to the house is in the blue bowl.", "question": "Where is the key?"}
for channel in (make_channel("text", verbatim=True), make_channel("handoff")):
    run = Pipeline([reader, solver], [Edge("reader", "solver", channel)]).run(note)
    print(f"{channel.name}: {run.answer} ({run.usage.wire:,} bytes sent)")

# It prints:
# text: The key to the house is in the blue bowl. (449 bytes sent)
# handoff: The key to the house is in the blue bowl. (1,388,014 bytes sent)
