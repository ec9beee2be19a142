"""Two agents take turns until one of them says a phrase."""

from unspoken import Agent, Backbone, Edge, Pipeline, Role, Settings
from unspoken.until import Phrase

model = Backbone.from_pretrained("smollm2-135m-instruct")
settings = Settings(max_tokens=32)
poet = Agent(
    "poet",
    model,
    role=Role("You write one line about the sea.", "{question} {messages}"),
    settings=settings,
)
critic = Agent(
    "critic",
    model,
    role=Role("You review one line.", "{messages}Is it about the sea? Say yes or no."),
    settings=settings,
)
edges = [Edge("poet", "critic", "text"), Edge("critic", "poet", "text")]
debate = Pipeline(
    [poet, critic], edges, rounds=3, until=Phrase("yes", agent="critic", ignore_case=True)
)
run = debate.run("Write the line.")
print([turn.agent for turn in run.turns], run.ended_by)
