// Elements and numbers. Words of models and of users come in as text, never as HTML.

export function make(tag, name = "", words = null, more = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (words !== null) element.textContent = words;
  for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
  return element;
}

// A name, kept apart from the direction of the words around it.
export function named(words) {
  return make("bdi", "", words);
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  const [unit, size] = count < 1e6 ? ["kB", 1e3] : count < 1e9 ? ["MB", 1e6] : ["GB", 1e9];
  return `${(count / size).toFixed(1)} ${unit}`;
}

export function seconds(count) {
  return `${count.toFixed(count < 10 ? 2 : 1)} s`;
}

export function whole(count, unit) {
  return `${count.toLocaleString("en")} ${unit}${count === 1 ? "" : "s"}`;
}

// A line that screen readers hear: what begins and what ends, not every word.
export function announce(words) {
  const line = document.getElementById("status");
  if (line) line.textContent = words;
}
