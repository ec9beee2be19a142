// Runs that somebody else has asked: which there are, and what happens in one. The run goes on
// whoever follows it. A tab that is hidden gives its stream back.
import { announce, make, named } from "./dom.js";
import { followed, others } from "./stream.js";

const OFTEN = 3000; // milliseconds between two looks at what runs
const TRIES = 6; // to come back to a run, after 1, 2, 4, ... 32 seconds

// A list of what runs, while nothing else is shown. choose: is called with a run.
export class Others {
  constructor(section, choose) {
    this.section = section;
    this.list = section.querySelector("ul");
    this.choose = choose;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.timer && this.look(this.key));
  }

  // Show what runs, from now on.
  async look(key) {
    clearTimeout(this.timer);
    this.key = key;
    const timer = (this.timer = setTimeout(() => this.look(key), OFTEN));
    const runs = document.hidden ? [] : await others(key).catch(() => []);
    if (this.timer === timer) this.#draw(runs);
  }

  // Show nothing.
  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.section.hidden = true;
  }

  #draw(runs) {
    const known = new Map([...this.list.children].map((line) => [line.dataset.run, line]));
    const lines = runs.map((run) => known.get(run.id) ?? this.#line(run));
    for (const line of this.list.children) if (!lines.includes(line)) line.remove();
    for (const line of lines) if (!line.isConnected) this.list.append(line);
    this.section.hidden = !runs.length;
  }

  #line(run) {
    const line = make("li", "", null, { "data-run": run.id });
    const button = make("button", "", null, { type: "button" });
    button.append("Watch ", named(run.model), ": ", named(run.question));
    button.addEventListener("click", () => this.choose(run));
    line.append(button);
    return line;
  }
}

// Feed a run into a side, and come back to it where the connection is lost. Returns whether the
// end was seen.
export async function follow(run, side, key, signal) {
  let [lost, clock] = [0, 0];
  const take = (event) => {
    lost = 0;
    if (event.type !== "snapshot") return side.take(event);
    const begun = performance.now() - event.at;
    side.clear(); // a snapshot is all that has happened
    for (const one of event.events) side.take(one);
    clearInterval(clock);
    clock = setInterval(() => side.tick(Math.round(performance.now() - begun)), 250);
  };
  while (true) {
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      const either = AbortSignal.any([signal, hidden.signal]);
      for await (const event of followed(run.id, key, either)) take(event);
      return true;
    } catch (failure) {
      if (signal.aborted) return fail(side, "You stopped watching. The run goes on.");
      if (!hidden.signal.aborted) {
        if (!failure.lost || lost === TRIES) return fail(side, failure.message);
        announce("The connection to the server was lost. The page tries to come back.");
        await new Promise((go) => setTimeout(go, 1000 * 2 ** lost++));
      }
      await visible();
    } finally {
      document.removeEventListener("visibilitychange", hide);
      clearInterval(clock);
    }
  }
}

function fail(side, message) {
  side.take({ type: "error", message, at: side.events.at(-1)?.at ?? 0 });
  return false;
}

async function visible() {
  while (document.hidden) {
    await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}
