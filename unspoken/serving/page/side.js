// One run: the graph of its agents, and a card for each turn, which fills while the agent writes.
import { announce, bytes, make, named, seconds, whole } from "./dom.js";
import { Graph, colourOf } from "./graph.js";
import { Numbers } from "./numbers.js";

const LONG = 1000; // letters after which the next line begins another paragraph
const FINISH = { stop: "done", length: "cut at its limit", cancelled: "given up" };

class Card {
  constructor({ agent, round }, rounds) {
    this.element = make("li", "turn busy");
    const head = make("h4");
    head.append(named(agent));
    if (rounds > 1) head.append(make("small", "", ` round ${round}`));
    this.state = make("span", "state", "works");
    head.append(this.state);
    this.words = make("div", "words");
    this.messages = make("ul", "messages");
    this.cost = make("p", "cost");
    this.notes = make("div");
    this.element.append(head, this.words, this.notes, this.messages, this.cost);
    this.paragraph = null;
    this.room = LONG;
    this.count = 0;
    this.waiting = "";
    this.over = false;
  }

  // New words wait for the next picture, and become one more text node.
  write(words) {
    this.waiting += words;
    this.count += words.length;
    if (this.state.textContent === "works") this.state.textContent = "writes";
  }

  flush() {
    let words = this.waiting;
    this.waiting = "";
    while (words) {
      const end = words.indexOf("\n", Math.max(0, this.room)) + 1;
      const part = words.slice(0, end || words.length);
      this.#paragraph().append(part);
      this.room -= part.length;
      words = words.slice(part.length);
      if (end) [this.paragraph, this.room] = [null, LONG];
    }
  }

  // What a browser lays out anew when words come. A long text has many, so that each is short.
  #paragraph() {
    if (this.paragraph) return this.paragraph;
    this.paragraph = make("p", "", null, { dir: "auto" });
    this.words.append(this.paragraph);
    return this.paragraph;
  }

  // The canvas of a diffusion model, which has the same length after each pass.
  draw({ words, pass, passes }) {
    this.canvas ??= make("p", "canvas", null, { dir: "auto" });
    if (!this.canvas.isConnected) this.words.before(this.canvas);
    this.canvas.textContent = words.map((word) => word ?? "░ ").join("");
    this.state.textContent = `pass ${pass} of ${passes}`;
  }

  send({ to, channel, bytes: size, positions, reading }) {
    const line = make("li", colourOf(channel));
    const told = ` · ${channel} · ${bytes(size)} · ${whole(positions, "position")}`;
    const head = reading ? make("summary") : line;
    head.append("to ", named(to), told);
    if (reading) line.append(this.#read(head, to, channel, reading));
    this.messages.append(line);
  }

  #read(head, to, channel, { words, nearest }) {
    const more = make("details");
    const own = channel === "text";
    const told = own ? "Its words:" : `What ${to} makes of it, which is a reading and no proof:`;
    more.append(head, make("p", "note", words === null ? `${to} cannot read it alone.` : told));
    if (words !== null) more.append(make("p", "words", words || "(nothing)", { dir: "auto" }));
    if (nearest.length) {
      const near = nearest.map((tokens) => tokens.join(" / ")).join(" · ");
      more.append(make("p", "note", "The words nearest to each vector:"));
      more.append(make("p", "words", near, { dir: "auto" }));
    }
    return more;
  }

  note(words) {
    this.notes.append(make("p", "note", words));
  }

  end({ text, reasoning, finish, usage }) {
    this.over = true;
    if (text && !this.count) this.write(text);
    if (text) this.canvas?.remove();
    if (text === null) this.note("It wrote no words. What it computed is its message.");
    if (text === "") this.note("It wrote nothing.");
    if (reasoning) this.#think(reasoning);
    this.close(FINISH[finish] ?? "done");
    const reused = usage.reused ? `, reused ${usage.reused.toLocaleString("en")}` : "";
    const counts = `read ${whole(usage.read, "token")}${reused}, wrote ${usage.written}`;
    this.cost.textContent = `${counts} · ${seconds(usage.seconds)}`;
  }

  close(state) {
    this.element.classList.remove("busy");
    this.state.textContent = state;
  }

  #think(words) {
    const more = make("details");
    more.append(make("summary", "", "Thoughts"), make("p", "words", words, { dir: "auto" }));
    this.words.before(more);
  }
}

export class Side {
  // model: an entry of /v1/models. drawn: is called after each picture.
  constructor(model, drawn) {
    this.model = model;
    this.agents = model.unspoken.agents;
    this.numbers = new Numbers();
    this.element = make("section", "side", null, { "aria-label": model.id });
    const head = make("h3");
    head.append(named(model.id));
    this.frame = make("div", "frame");
    this.turns = make("ol", "turns");
    this.element.append(head, this.frame, this.turns);
    this.drawn = drawn;
    this.clear();
    new ResizeObserver(() => this.#lay()).observe(this.frame);
  }

  // Begin anew, as if nothing had happened.
  clear() {
    this.numbers.clear();
    [this.events, this.waiting, this.last] = [[], [], null];
    this.cards = new Map();
    this.changed = new Set();
    this.graph = new Graph(this.model.unspoken);
    this.frame.replaceChildren(this.graph.element);
    this.turns.replaceChildren();
    this.failure?.remove();
    this.#lay();
  }

  // A graph that is wider than its place is scrolled, by keys too.
  #lay() {
    const { frame } = this;
    if (!frame.clientWidth) return;
    this.graph.lay(frame.clientWidth);
    if (frame.scrollWidth > frame.clientWidth) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
  }

  // Take an event. at: milliseconds since the question was asked.
  take(event) {
    this.events.push(event);
    this.numbers.take(event);
    this.waiting.push(event);
    if (this.waiting.length === 1) requestAnimationFrame(() => this.flush());
  }

  // Time goes by, in milliseconds since the question was asked.
  tick(at) {
    this.numbers.time = at / 1000;
    this.drawn();
  }

  // Draw all that waits.
  flush() {
    const events = this.waiting;
    this.waiting = [];
    for (const event of events) this.#show(event);
    for (const card of this.changed) card.flush();
    this.changed.clear();
    this.drawn();
  }

  #show(event) {
    const card = this.cards.get(event.step);
    switch (event.type) {
      case "turn_started":
        return this.#begin(event);
      case "words":
        return this.#write(card, event.words);
      case "answer":
        return this.#write(this.#answering(), event.words);
      case "canvas":
        return card?.draw(event);
      case "message":
        this.graph.send(event);
        return card?.send(event);
      case "left_out":
        return this.#leftOut(event);
      case "turn_ended":
        card.end(event);
        this.changed.add(card);
        this.graph.end(event.agent);
        return announce(`${event.agent} has finished.`);
      case "ended":
        return this.#end(event);
      case "error":
        return this.#fail(event.message);
    }
  }

  #begin(event) {
    const card = new Card(event, this.model.unspoken.rounds);
    this.cards.set(event.step, card);
    this.turns.append(card.element);
    this.graph.begin(event.agent);
    this.last = event.agent === this.agents.at(-1).name ? card : this.last;
    announce(`${event.agent} begins.`);
  }

  #write(card, words) {
    if (!card) return;
    card.write(words);
    this.changed.add(card);
  }

  // The card of the answer, unless it has all of its words already.
  #answering() {
    return this.last?.over ? null : this.last;
  }

  #leftOut({ agent, exchanges }) {
    const card = [...this.cards.values()].at(-1);
    card?.note(`${agent} no longer reads the oldest ${whole(exchanges, "exchange")}: its window is full.`);
  }

  #end({ ended_by: rule }) {
    this.last?.element.classList.add("answer");
    if (rule) this.last?.note(`The rule ${rule} ended the rounds.`);
  }

  #fail(message) {
    for (const card of this.cards.values()) if (!card.over) card.close("given up");
    this.failure = make("p", "failed", message, { dir: "auto" });
    this.element.append(this.failure);
  }
}
