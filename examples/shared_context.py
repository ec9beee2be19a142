"""Two questions about one text. A pool of caches reads it once."""

from unspoken import Agent, AnchorPool, Backbone, Pipeline, Role

text = (
    "The ferry to the island leaves at nine from the old pier. It carries forty people and six "
    "bicycles. Tickets are sold in the red hut beside the pier, and children travel free."
)
model = Backbone.from_pretrained("smollm2-135m-instruct")
role = Role("Answer in one short sentence.", "{context}\n\nQuestion: {question}")
pipeline = Pipeline([Agent("clerk", model, role=role)])
pooled = pipeline.served_by(AnchorPool(budget=1 << 30))  # bytes that it may keep
for question in ("When does the ferry leave?", "Where are tickets sold?"):
    run = pooled.run({"context": text, "question": question})
    print(f"{run.usage.read} tokens read, {run.usage.reused} reused: {run.answer}")
