"""Two agents take turns until one of them says a phrase."""

from unspoken import Agent, Backbone, Edge, Pipeline, Role, Settings
from unspoken.until import Phrase

model = Backbone.from_pretrained("smollm2-135m-instruct")
short = Settings(max_tokens=24)
poet = Agent("poet", model, role=Role("You write.", "{question} {messages}"), settings=short)
question = "{messages}\nIs this line about the sea? Answer yes or no."
critic = Agent("critic", model, role=Role("You are a critic.", question), settings=short)
edges = [Edge("poet", "critic", "text"), Edge("critic", "poet", "text")]
until = Phrase("No.", agent="critic")
debate = Pipeline([poet, critic], edges, rounds=4, until=until, answer="critic")
run = debate.run("Write one line about the sea.")
for turn in run.turns:
    print(f"{turn.agent}: {turn.text[:60]}")
print(run.ended_by)

# It prints:
# poet: The sea is a boundless, unforgiving, and unforgiving, a plac
# critic: No, the line about the sea is not about the sea. It is about
# poet: The poet's use of the word "no" is a subtle yet powerful met
# critic: No.
# Phrase(words='No.', agent='critic')
