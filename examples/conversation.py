"""A conversation: each turn reads only what is new, and a fork asks another question."""

from unspoken import Agent, Backbone, Pipeline, Role, Settings

model = Backbone.from_pretrained("smollm2-135m-instruct")
role = Role("Answer in one short sentence.", "{question}")
clerk = Agent("clerk", model, role=role, settings=Settings(max_tokens=24))
with Pipeline([clerk]).session() as talk:
    talk.run("My dog is called Rex and he is seven years old. Say hello to him.")
    other = talk.fork()
    for session, question in ((talk, "What is the name of my dog?"), (other, "How old is he?")):
        run = session.run(question)
        print(f"{run.usage.read} tokens read, {run.usage.reused} reused: {run.answer}")
