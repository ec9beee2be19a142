"""A conversation: each turn reads only what is new, and a fork asks another question."""

from unspoken import Agent, Backbone, Pipeline, Role, Settings

model = Backbone.from_pretrained("smollm2-135m-instruct")
role = Role("Answer in one short sentence.", "{question}")
settings = Settings(max_tokens=16, stop=(".", ","))
with Pipeline([Agent("clerk", model, role=role, settings=settings)]).session() as talk:
    talk.run("I am going to Paris on Friday.")
    other = talk.fork()
    for session, question in ((talk, "When am I going to Paris?"), (other, "Where am I going?")):
        run = session.run(question)
        print(f"{run.usage.read} tokens read, {run.usage.reused} reused: {run.answer}")

# It prints:
# 18 tokens read, 43 reused: I'm planning to visit Paris on Friday
# 11 tokens read, 48 reused: I'm going to Paris on Friday and I'm going to the Eiffel Tower
