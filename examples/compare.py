"""Questions over two channels, with the controls: what was the message worth?

For your own questions: `TaskSource(train="TRAIN.jsonl", test="TEST.jsonl")`.
"""

from unspoken import (
    Agent,
    Backbone,
    Edge,
    Pipeline,
    Role,
    Settings,
    TaskSource,
    compare,
    load_task,
    make_channel,
)

model = Backbone.from_pretrained("smollm2-135m-instruct")
examples = """Answer each question with a few words of the fact.

Fact: A prism splits white light into its colours.
Question: What does a prism split?
Answer: white light

Fact: Camels store fat in their humps.
Question: Where do camels store fat?
Answer: in their humps

"""
sender = Agent("sender", model, role=Role(examples, "Fact: {context}\n", chat=False))
role = Role(examples, "Fact: {messages}\nQuestion: {question}\nAnswer:", chat=False)
receiver = Agent("receiver", model, role=role, settings=Settings(max_tokens=12, stop=("\n",)))
pipelines = {
    name: Pipeline([sender, receiver], [Edge("sender", "receiver", channel)])
    for name, channel in (
        ("text", make_channel("text", verbatim=True)),
        ("handoff", make_channel("handoff")),
    )
}
report = compare(pipelines, load_task(TaskSource(name="qasc")), limit=16, seed=0)
for channel in report.channels:
    right = {arm.condition: f"{arm.accuracy:.0%}" for arm in report.arms if arm.channel == channel}
    print(channel, right)

# It prints:
# text {'none': '6%', 'matched': '38%', 'deranged': '0%'}
# handoff {'none': '6%', 'matched': '31%', 'deranged': '0%'}
