"""Train a projector from one model into another, then ask the pair.

Ten steps show how it goes; the recipe has 228. On the command line:
`unspoken train recipes/relay_projector.yaml out=out/mine`, then `unspoken ask out/mine "..."`.
"""

from tempfile import TemporaryDirectory

from unspoken import load_pipeline
from unspoken.recipe import load_recipe
from unspoken.relay.train import train_by

with TemporaryDirectory() as folder:
    short = ["warmup.steps=8", "warmup.every=8", "training.steps=2", "training.every=2"]
    less = ["validation=4", "task.validation=4", "training.batch_size=2", f"out={folder}"]
    trained = train_by(load_recipe("relay_projector", [*short, *less]))
    print(f"{trained.parameters:,} trained parameters")
    pair = load_pipeline(trained.folder)
    run = pair.run({"context": "Rust is an oxide of iron.", "question": "What is rust?"})
    print([turn.agent for turn in run.turns], len(run.answer) > 0)

# It prints:
# 2,498,176 trained parameters
# ['sender', 'receiver'] True
