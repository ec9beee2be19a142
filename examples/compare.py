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
example = "Fact: Rust is an oxide of iron.\nQuestion: What is rust?\nAnswer: an oxide of iron\n\n"
sender = Agent("sender", model, role=Role(example, "Fact: {context}\n", chat=False))
role = Role(example, "Fact: {messages}\nQuestion: {question}\nAnswer:", chat=False)
receiver = Agent("receiver", model, role=role, settings=Settings(max_tokens=8, stop=("\n",)))
pipelines = {
    name: Pipeline([sender, receiver], [Edge("sender", "receiver", channel)])
    for name, channel in (
        ("text", make_channel("text", verbatim=True)),
        ("handoff", make_channel("handoff")),
    )
}
report = compare(pipelines, load_task(TaskSource(name="qasc")), limit=8, seed=0)
for channel in report.channels:
    right = {arm.condition: f"{arm.accuracy:.0%}" for arm in report.arms if arm.channel == channel}
    print(channel, right)
