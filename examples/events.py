"""Watch every agent as it writes, and stop early."""

from unspoken import Agent, Backbone, Edge, Pipeline, Settings
from unspoken.events import MessageSent, TurnEnded, TurnStarted, WordsWritten

model = Backbone.from_pretrained("smollm2-135m-instruct")
agents = [Agent(name, model, settings=Settings(max_tokens=12)) for name in ("scout", "judge")]
pipeline = Pipeline(agents, [Edge("scout", "judge", "text")])
written = 0
with pipeline.stream("Name three planets.") as events:
    for event in events:
        match event:
            case TurnStarted():
                print(event.agent, "begins")
            case WordsWritten():
                written += 1
            case MessageSent():
                print(f"{event.sender} to {event.receiver}: {event.size.bytes} bytes")
            case TurnEnded():
                print(f"{event.agent} ends: {event.turn.finish}")
                break  # the judge's turn is not waited for
            case _:
                pass
print(written > 0)

# It prints:
# scout begins
# scout to judge: 409 bytes
# scout ends: stop
# True
