// What a run costs, counted while it runs, and what differs between two.
import { bytes, make, named, seconds, whole } from "./dom.js";

const ROWS = [
  ["first", "first word of the answer", seconds],
  ["time", "time", seconds],
  ["read", "tokens read", (count) => count.toLocaleString("en")],
  ["reused", "tokens reused", (count) => count.toLocaleString("en")],
  ["written", "tokens written", (count) => count.toLocaleString("en")],
  ["bytes", "sent between agents", bytes],
];

export class Numbers {
  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { first: null, time: 0, read: 0, reused: 0, written: 0, bytes: 0 });
    this.answer = "";
  }

  take(event) {
    this.time = event.at / 1000;
    if (event.type === "answer") {
      this.first ??= this.time;
      this.answer += event.words;
    } else if (event.type === "message") {
      this.bytes += event.bytes;
    } else if (event.type === "turn_ended") {
      for (const name of ["read", "reused", "written"]) this[name] += event.usage[name];
    }
  }
}

// A table of numbers and bars, a column for each run. Bars of a row share a scale.
export class NumberTable {
  constructor(names, numbers) {
    this.numbers = numbers;
    this.element = make("table", names.length > 1 ? "numbers" : "numbers alone");
    const head = make("tr");
    head.append(make("th", "", "what it costs", { scope: "col" }));
    for (const name of names) head.append(make("th", "", null, { scope: "col" }));
    names.forEach((name, n) => head.cells[n + 1].append(named(name)));
    const body = make("tbody");
    this.rows = ROWS.map(([key, label, format]) => this.#row(body, key, label, format));
    const top = make("thead");
    top.append(head);
    this.element.append(make("caption", "unseen", "What each run costs"), top, body);
  }

  #row(body, key, label, format) {
    const row = make("tr");
    row.append(make("th", "", label, { scope: "row" }));
    const cells = this.numbers.map(() => {
      const [cell, value, bar] = [make("td"), make("span", "value", "–"), make("span", "bar")];
      cell.append(value, bar);
      row.append(cell);
      return { value, bar };
    });
    body.append(row);
    return { key, format, cells };
  }

  draw() {
    for (const { key, format, cells } of this.rows) {
      const values = this.numbers.map((one) => one[key]);
      const most = Math.max(...values, 0);
      cells.forEach(({ value, bar }, n) => {
        const words = values[n] === null ? "–" : format(values[n]);
        const width = `${most ? (100 * values[n]) / most : 0}%`;
        if (value.textContent !== words) value.textContent = words; // what stays is not laid out
        if (bar.style.width !== width) bar.style.width = width;
      });
    }
  }
}

// One sentence that says what differs of the second run from the first.
export function difference(names, [one, two]) {
  const tokens = (count, word) => whole(count, `${word} token`);
  const size = (count, word) => `${bytes(count)} ${word}`;
  const time = (count, word) => `${seconds(count)} ${word}`;
  const parts = [
    compared("read", two.read - one.read, tokens, ["fewer", "more"], "as many tokens"),
    compared("wrote", two.written - one.written, tokens, ["fewer", "more"], "as many"),
    compared("sent", two.bytes - one.bytes, size, ["less", "more"], "as many bytes"),
  ];
  if (one.first !== null && two.first !== null) {
    const later = two.first - one.first;
    parts.unshift(compared("began its answer", later, time, ["sooner", "later"], "as soon"));
  }
  const last = parts.pop();
  const same = one.answer.trim() === two.answer.trim();
  const begin = same ? "Both give the same answer" : "The answers differ";
  return `${begin}; compared with ${names[0]}, ${names[1]} ${parts.join(", ")} and ${last}.`;
}

function compared(verb, more, format, [less, greater], equal) {
  return `${verb} ${more ? format(Math.abs(more), more < 0 ? less : greater) : equal}`;
}
