"""Keep every message of a run as a file, read one back, and see its size and its seal."""

from pathlib import Path
from tempfile import TemporaryDirectory

from unspoken import Agent, Backbone, Edge, Message, Pipeline, Role, make_channel
from unspoken.audit import read_log
from unspoken.wire import Int8, Seal

model = Backbone.from_pretrained("smollm2-135m-instruct")
reader = Agent("reader", model, role=Role("You read a note.", "{context}"))
solver = Agent("solver", model, role=Role("Answer briefly.", "{messages}Question: {question}"))
edge = Edge("reader", "solver", make_channel("handoff"), pack=Int8())
with TemporaryDirectory() as log:
    pipeline = Pipeline([reader, solver], [edge], audit=log)
    run = pipeline.run({"context": "The key is in the blue bowl.", "question": "Where is the key?"})
    (line,) = read_log(log)
    message = Message.load(Path(log) / line["file"])
    print(f"{line['sender']} to {line['receiver']}: {line['bytes']:,} bytes of int8")
seal = Seal(sign=bytes(range(32)))  # in use: secrets.token_bytes(32), kept as keys are kept
sealed = message.to_bytes(seal)
print(Message.from_bytes(sealed, seal).header.sender, run.answer)

# It prints:
# reader to solver: 360,859 bytes of int8
# reader The key is in the blue bowl.
