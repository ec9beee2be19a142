// What a run costs, counted while it runs, and what differs between two.
import { bytes, make, named, seconds, whole } from "./dom.js";

const ROWS = [
  ["first", "time to the answer's first word", seconds],
  ["time", "time in all", seconds],
  ["read", "tokens read", number],
  ["written", "tokens written", number],
  ["bytes", "sent between agents", bytes],
  ["reused", "tokens not read again", number],
];
const MORE_IS_BETTER = new Set(["reused"]); // these have no bar

function number(count) {
  return count.toLocaleString("en");
}

export class Numbers {
  constructor() {
    this.clear();
  }

  clear() {
    const unknown = { first: null, time: null, read: null, reused: null, written: null };
    Object.assign(this, { ...unknown, bytes: null });
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
      this.bytes ??= 0; // it may send nothing
    }
  }
}

// A table of numbers and bars, a column for each run. Bars of a row share a scale.
export class NumberTable {
  constructor(names, numbers) {
    this.numbers = numbers;
    this.element = make("table", names.length > 1 ? "numbers" : "numbers alone");
    const head = make("tr");
    head.append(make("th", "", "what it costs (less is better)", { scope: "col" }));
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
      const name = MORE_IS_BETTER.has(key) ? "bar none" : "bar";
      const [cell, value, bar] = [make("td"), make("span", "value", "–"), make("span", name)];
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
        const width = values[n] ? `max(3px, ${(100 * values[n]) / most}%)` : "0px";
        if (value.textContent !== words) value.textContent = words; // what stays is not laid out
        if (bar.style.width !== width) bar.style.width = width;
      });
    }
  }
}

// One sentence that says what the second run took, and the first.
export function difference(names, [one, two]) {
  const parts = [
    compared("took", two.time, one.time, seconds),
    compared("read", two.read, one.read, number, " tokens"),
    compared("wrote", two.written, one.written, number),
    compared("sent", two.bytes, one.bytes, bytes),
  ];
  if (two.first !== null && one.first !== null) {
    parts.unshift(compared("began its answer after", two.first, one.first, seconds));
  }
  const last = parts.pop();
  const same = one.answer.trim() === two.answer.trim();
  const begin = same ? "Both give the same answer" : "The answers differ";
  return `${begin}. Against ${names[0]}, ${names[1]} ${parts.join(", ")} and ${last}.`;
}

function compared(verb, own, other, format, unit = "") {
  const [mine, theirs] = [own, other].map((count) => format(count ?? 0));
  return `${verb} ${mine}${unit}${mine === theirs ? " as well" : ` instead of ${theirs}`}`;
}
