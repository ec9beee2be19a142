"""Two questions about one text. A pool of caches reads it once."""

from unspoken import Agent, AnchorPool, Backbone, Pipeline, Role, Settings

text = (
    "The shop on the market square opens at six in the morning. It sells eight kinds of bread, and "
    "the dark one with walnuts is sold out before nine on most days."
)
instructions = "Here is a text, and a question about it with its answer.\n\n"
role = Role(instructions, "{context}\nQuestion: {question}\nAnswer:", chat=False)
model = Backbone.from_pretrained("smollm2-135m-instruct")
settings = Settings(max_tokens=12, stop=("\n", "."))
pipeline = Pipeline([Agent("clerk", model, role=role, settings=settings)])
pooled = pipeline.served_by(AnchorPool(budget=1 << 30))  # bytes that it may keep
for question in ("How many kinds of bread does it sell?", "Where is the shop?"):
    run = pooled.run({"context": text, "question": question})
    print(f"{run.usage.read} tokens read, {run.usage.reused} reused: {run.answer}")

# It prints:
# 65 tokens read, 0 reused: 8
# 8 tokens read, 53 reused: The shop is in the market square
