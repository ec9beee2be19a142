// A question, one run or two about it, their numbers, and what differs.
import { announce, make, named } from "./dom.js";
import { NumberTable, difference } from "./numbers.js";
import { Side } from "./side.js";

export class Exchange {
  // models: one or two entries of /v1/models. given: what agents read besides, by field.
  constructor(question, models, given = {}) {
    this.question = question;
    this.given = given;
    this.models = models;
    this.sides = models.map((model) => new Side(model, () => this.table.draw()));
    this.names = models.map(({ id }) => id);
    this.table = new NumberTable(this.names, this.sides.map((side) => side.numbers));
    this.element = make("details", "exchange", null, { open: "" });
    const head = make("summary");
    head.append(make("h2", "", question, { dir: "auto" }));
    const sides = make("div", models.length > 1 ? "sides two" : "sides");
    sides.append(...this.sides.map((side) => side.element));
    this.buttons = make("div", "line");
    const runs = make("div", models.length > 1 ? "runs" : "runs alone");
    runs.append(this.table.element, sides);
    const read = Object.entries(given).map(([name, value]) => fieldShown(name, value));
    this.element.append(head, ...read, runs, this.buttons);
  }

  // What went wrong, if something did.
  get failure() {
    const last = this.sides.map((side) => side.events.at(-1));
    return last.find((event) => event?.type === "error")?.message;
  }

  // Draw what waits, and say how it ended.
  end() {
    for (const side of this.sides) side.flush();
    if (this.failure) return announce(`Not to the end: ${this.failure}`);
    if (this.sides.length > 1) this.#compare();
    announce(this.sides.length > 1 ? "Both answers are there." : "The answer is there.");
  }

  // A button below the runs.
  button(words, press) {
    const button = make("button", "", words, { type: "button" });
    button.addEventListener("click", press);
    this.buttons.append(button);
  }

  #compare() {
    const both = this.sides.map((side) => side.numbers);
    const block = make("section", "compared", null, { "aria-label": "What differs" });
    const answers = make("div", "sides two");
    this.names.forEach((name, n) => {
      const answer = make("div", "answered");
      const head = make("h3");
      head.append(named(name));
      answer.append(head, make("p", "words", both[n].answer || "(nothing)", { dir: "auto" }));
      answers.append(answer);
    });
    block.append(make("p", "differs", difference(this.names, both)), answers);
    this.buttons.before(block);
  }
}

// A field as it was given: words, or the names of documents and their words.
function fieldShown(name, value) {
  const more = make("details", "given");
  const head = make("summary");
  head.append("given: ", named(name));
  const words = typeof value === "string" ? { "": value } : value;
  const parts = Object.entries(words).map(([file, text]) => (file ? `${file}\n${text}` : text));
  more.append(head, ...parts.map((part) => make("p", "words", part, { dir: "auto" })));
  return more;
}
