// The form: which pipelines are asked what, one after the other, with the conversation so far.
import { announce, make } from "./dom.js";
import { Exchange } from "./exchange.js";
import { Others, follow } from "./follow.js";
import { keep } from "./keep.js";
import { asked, models } from "./stream.js";

const find = (id) => document.getElementById(id);
const [form, keyForm, fields, runs] = ["form", "key-form", "fields", "runs"].map(find);
const [model, other, question, stop, anew] = ["model", "other", "question", "stop", "anew"].map(find);
let key = ""; // in memory alone
let known = [];
let history = new Map(); // of each pipeline: messages of the conversation
let running = null;
const others = new Others(find("others"), watch);

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
  others.look(key);
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
  const before = new Map([...fields.children].map((one) => [one.dataset.name, one]));
  fields.replaceChildren(...names.map((name) => before.get(name) ?? fieldOf(name)));
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

// What agents read besides the question: words, or documents by the names of files.
function fieldOf(name) {
  const field = make("fieldset", "field", null, { "data-name": name });
  const words = make("label", "", "Words");
  words.append(make("textarea", "", null, { rows: 3, dir: "auto" }));
  const files = make("label", "", "or text files");
  files.append(make("input", "", null, { type: "file", multiple: "" }));
  field.append(make("legend", "", name), words, files);
  return field;
}

async function valueOf(field) {
  const files = [...field.querySelector("input").files];
  if (!files.length) return field.querySelector("textarea").value;
  return Object.fromEntries(await Promise.all(files.map(async (one) => [one.name, await one.text()])));
}

async function bodyOf(one, words) {
  const given = {};
  for (const field of fields.children) {
    const { name } = field.dataset;
    const value = one.unspoken.fields.includes(name) && (await valueOf(field));
    if (value) given[name] = value;
  }
  const messages = [...(history.get(one) ?? []), { role: "user", content: words }];
  const unspoken = { fields: given, readings: find("readings").checked };
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
  const exchange = begun(new Exchange(words, pipelines));
  let well = true;
  for (const [n, side] of exchange.sides.entries()) {
    well = await run(side, bodies[n], running.signal);
    if (!well) break;
  }
  if (well) remember(exchange, bodies);
  else exchange.button("Try again", () => running || ask(words, pipelines, bodies));
  ended(exchange);
}

// Show a run that somebody else has asked.
async function watch(run) {
  const pipeline = known.find(({ id }) => id === run.model);
  if (running || !pipeline) return;
  const exchange = begun(new Exchange(run.question, [pipeline]), "Stop watching");
  find("runs").focus(); // the button that was pressed is gone
  const well = await follow(run, exchange.sides[0], key, running.signal);
  if (!well) exchange.button("Watch again", () => watch(run));
  ended(exchange);
}

function begun(exchange, words = "Stop") {
  for (const one of runs.querySelectorAll("details.exchange")) one.open = false;
  runs.prepend(exchange.element);
  running = new AbortController();
  stop.textContent = words;
  others.stop();
  busy(true);
  return exchange;
}

function ended(exchange) {
  running = null;
  busy(false);
  exchange.end();
  exchange.button("Keep this run as a file", () => keep(exchange));
  others.look(key);
}

function remember(exchange, bodies) {
  exchange.sides.forEach((side, n) => {
    const said = { role: "assistant", content: side.numbers.answer };
    const talks = side.model.unspoken.talks;
    if (talks) history.set(side.model, [...bodies[n].messages, said]);
  });
  if (question.value.trim() === exchange.question) question.value = "";
}

function busy(now) {
  find("ask").setAttribute("aria-disabled", now);
  model.disabled = other.disabled = now;
  stop.hidden = !now;
  anew.hidden = now || history.size === 0;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = question.value.trim();
  if (!words || running) return;
  const pipelines = chosen();
  running = new AbortController(); // no second question while files are read
  try {
    const bodies = await Promise.all(pipelines.map((one) => bodyOf(one, words)));
    ask(words, pipelines, bodies);
  } catch (failure) {
    running = null;
    announce(`A file cannot be read: ${failure.message}`);
  }
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
