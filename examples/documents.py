"""Documents by name, in any order. Each is read once and found again by its words."""

from unspoken import Agent, AnchorPool, Backbone, Pipeline, Role, Settings

texts = {
    "oven.md": "The oven in the bakery of Bern was built in 1911. It is heated with beech wood "
    "from the forest behind the mill, and it takes five hours until it is hot enough for bread.",
    "mill.md": "The mill beside the river belongs to Clara Zimmer. She grinds rye on Mondays and "
    "wheat on Thursdays, and she sells the bran to a farmer who keeps forty pigs.",
    "shop.md": "The shop on the market square opens at six in the morning. It sells eight kinds of "
    "bread, and the dark one with walnuts is sold out before nine on most days.",
}
role = Role(
    "Here are documents, and a question about one of them with its answer.\n\n",
    "{documents}Question: {question}\nAnswer:",
    chat=False,
)
model = Backbone.from_pretrained("smollm2-135m-instruct")
settings = Settings(max_tokens=12, stop=("\n",))
pipeline = Pipeline([Agent("reader", model, role=role, settings=settings)])
pooled = pipeline.served_by(AnchorPool("shifted"))
for names, question in (
    (["oven.md", "mill.md", "shop.md"], "Who owns the mill?"),
    (["shop.md", "oven.md", "mill.md"], "When was the oven built?"),
):
    run = pooled.run({"question": question, "documents": {name: texts[name] for name in names}})
    print(f"{run.usage.reused / (run.usage.reused + run.usage.read):.0%} reused: {run.answer}")

# It prints:
# 0% reused: Clara Zimmer
# 90% reused: 1911
