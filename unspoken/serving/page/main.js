// The form: which pipelines are asked what, one after the other, with the conversation so far.
import { announce, make } from "./dom.js";
import { Exchange } from "./exchange.js";
import { keep } from "./keep.js";
import { asked, models } from "./stream.js";

const find = (id) => document.getElementById(id);
const [form, keyForm, fields, runs] = ["form", "key-form", "fields", "runs"].map(find);
const [model, other, question, stop, anew] = ["model", "other", "question", "stop", "anew"].map(find);
let key = ""; // in memory alone
let known = [];
let history = new Map(); // of each pipeline: messages of the conversation
let running = null;

async function load() {
  try {
    known = await models(key);
  } catch (failure) {
    keyForm.hidden = failure.status !== 401;
    form.hidden = true;
    announce(failure.status === 401 && !key ? "This server asks for a key." : failure.message);
    if (failure.status === 401) find("key").focus();
    else again("Try again", load);
    return;
  }
  keyForm.hidden = true;
  form.hidden = false;
  announce("");
  model.replaceChildren(...known.map(({ id }) => new Option(id)));
  other.replaceChildren(new Option("nothing", ""), ...known.map(({ id }) => new Option(id)));
  choose();
}

function again(words, press) {
  const button = make("button", "", words, { type: "button" });
  button.addEventListener("click", () => {
    runs.replaceChildren();
    press();
  });
  runs.replaceChildren(button);
}

function chosen() {
  const ids = [model.value, other.value].filter(Boolean);
  return ids.map((id) => known.find((one) => one.id === id));
}

// Another choice is another conversation, and may read other fields.
function choose() {
  forget();
  const names = [...new Set(chosen().flatMap((one) => one.unspoken.fields))];
  const kept = new Map([...fields.querySelectorAll("textarea")].map((one) => [one.name, one.value]));
  fields.replaceChildren(
    ...names.map((name) => {
      const label = make("label", "", `{${name}}`);
      const area = make("textarea", "", kept.get(name) ?? "", { name, rows: 3, dir: "auto" });
      label.append(area);
      return label;
    }),
  );
  const two = chosen().length > 1;
  const mute = chosen().filter((one) => !one.unspoken.talks).map((one) => one.id);
  const told = [
    two ? "They answer one after the other, so that neither slows the other." : "",
    mute.length ? `${mute.join(" and ")} answers single questions and reads no earlier ones.` : "",
  ];
  find("hint").textContent = told.filter(Boolean).join(" ");
}

function forget() {
  history = new Map();
  anew.hidden = true;
}

function bodyOf(one, words) {
  const given = [...fields.querySelectorAll("textarea")]
    .filter(({ name, value }) => value && one.unspoken.fields.includes(name))
    .map(({ name, value }) => [name, value]);
  const messages = [...(history.get(one) ?? []), { role: "user", content: words }];
  const unspoken = given.length ? { fields: Object.fromEntries(given) } : true;
  return { model: one.id, messages, stream: true, unspoken };
}

// Feed a run into its side. Returns whether it went well.
async function run(side, body, signal) {
  const begun = performance.now();
  const now = () => Math.round(performance.now() - begun);
  const take = (event) => side.take({ ...event, at: now() });
  const clock = setInterval(() => side.tick(now()), 250);
  try {
    for await (const event of asked(body, key, signal)) take(event);
    return true;
  } catch (failure) {
    take({ type: "error", message: failure.message });
    return false;
  } finally {
    clearInterval(clock);
  }
}

async function ask(words, pipelines, bodies) {
  const exchange = new Exchange(words, pipelines);
  for (const one of runs.querySelectorAll("details.exchange")) one.open = false;
  runs.prepend(exchange.element);
  running = new AbortController();
  busy(true);
  let well = true;
  for (const [n, side] of exchange.sides.entries()) {
    well = await run(side, bodies[n], running.signal);
    if (!well) break;
  }
  running = null;
  busy(false);
  exchange.end();
  if (well) remember(exchange, bodies);
  else exchange.button("Try again", () => running || ask(words, pipelines, bodies));
  exchange.button("Keep this run as a file", () => keep(exchange));
}

function remember(exchange, bodies) {
  exchange.sides.forEach((side, n) => {
    const said = { role: "assistant", content: side.numbers.answer };
    const talks = side.model.unspoken.talks;
    if (talks) history.set(side.model, [...bodies[n].messages, said]);
  });
  anew.hidden = history.size === 0;
  if (question.value.trim() === exchange.question) question.value = "";
}

function busy(now) {
  find("ask").setAttribute("aria-disabled", now);
  model.disabled = other.disabled = now;
  stop.hidden = !now;
  if (now) anew.hidden = true;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = question.value.trim();
  if (!words || running) return;
  const pipelines = chosen();
  ask(words, pipelines, pipelines.map((one) => bodyOf(one, words)));
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  find("key").value = "";
  load();
});
stop.addEventListener("click", () => running?.abort());
anew.addEventListener("click", () => {
  forget();
  runs.replaceChildren();
  announce("A new conversation.");
  question.focus();
});
for (const one of [model, other]) one.addEventListener("change", choose);
load();
