// The graph of agents: layers by who hears whom, from left to right, or downward where it is narrow.
import { bytes } from "./dom.js";

const HIGH = 36, LETTER = 8.4, GAP = 150, ROW = 84, COLUMN = 24, DOWN = 104;
const COLOURS = ["blue", "orange", "green", "violet", "ochre", "pink"];
const colours = new Map([["text", "blue"]]);
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function colourOf(channel) {
  if (!colours.has(channel)) colours.set(channel, COLOURS[colours.size % COLOURS.length]);
  return colours.get(channel);
}

export class Graph {
  constructor({ agents, edges }) {
    this.agents = agents.map(({ name }) => name);
    this.edges = edges.map((edge) => ({ ...edge, key: keyOf(edge), messages: 0, bytes: 0 }));
    this.layers = layersOf(this.agents, this.edges);
    this.states = new Map();
    this.element = drawn("svg", { class: "graph", role: "img", focusable: "false" });
    const told = this.edges.map((edge) => `${edge.from} to ${edge.to} over ${edge.channel}`);
    const names = this.agents.join(", ");
    this.element.setAttribute("aria-label", `Agents ${names}. ${told.join("; ") || "No messages"}.`);
    this.downward = null;
    this.lay(Infinity);
  }

  // Lay it out for a width in pixels.
  lay(width) {
    const wide = this.#boxes(false);
    const downward = wide.width > width;
    if (downward === this.downward) return;
    this.downward = downward;
    this.#draw(downward ? this.#boxes(true) : wide);
  }

  begin(agent) {
    this.#set(agent, "busy");
  }

  end(agent) {
    this.#set(agent, "done");
  }

  send(message) {
    const edge = this.edges.find((one) => one.key === keyOf(message));
    if (!edge) return;
    edge.messages += 1;
    edge.bytes += message.bytes;
    this.#label(edge);
    edge.path.classList.add("used");
    this.#travel(edge);
  }

  #set(agent, state) {
    this.states.set(agent, state);
    this.nodes.get(agent)?.setAttribute("class", `node ${state}`);
  }

  #boxes(downward) {
    const sizes = new Map(this.agents.map((name) => [name, 32 + LETTER * shown(name).length]));
    const rows = this.layers.map((layer) => layer.map((name) => sizes.get(name)));
    const boxes = new Map();
    const across = Math.max(...rows.map((row) => sum(row) + COLUMN * (row.length - 1)));
    const most = Math.max(...this.layers.map((layer) => layer.length));
    let along = 0;
    this.layers.forEach((layer, n) => {
      let beside = (across - sum(rows[n]) - COLUMN * (layer.length - 1)) / 2;
      const widest = Math.max(...rows[n]);
      layer.forEach((name, m) => {
        const width = sizes.get(name);
        const x = downward ? beside + width / 2 : along + widest / 2;
        const y = downward ? n * DOWN : (m + (most - layer.length) / 2) * ROW;
        boxes.set(name, { x, y, width });
        beside += width + COLUMN;
      });
      along += widest + GAP;
    });
    return { boxes, width: along - GAP };
  }

  #draw({ boxes }) {
    const svg = this.element;
    svg.replaceChildren();
    this.nodes = new Map();
    const across = [...boxes.values()].map(({ x, y }) => (this.downward ? x : -y));
    this.middle = Math.min(...across) + Math.max(...across);
    const hull = { left: [], right: [], top: [], low: [] };
    const cover = (x, y, dx, dy) => {
      hull.left.push(x - dx);
      hull.right.push(x + dx);
      hull.top.push(y - dy);
      hull.low.push(y + dy);
    };
    const taken = [...boxes.values()].map(({ x, y, width }) => [x, y, width / 2, HIGH / 2]);
    const labels = [];
    const curves = this.edges.map((edge) => this.#curve(edge, boxes));
    const steps = [...Array(25).keys()].map((n) => n / 24);
    for (const { at } of curves) for (const t of steps) taken.push([...at(t), 2, 2]);
    for (const [n, edge] of this.edges.entries()) {
      const curve = curves[n];
      const group = drawn("g", { class: `edge ${colourOf(edge.channel)}` });
      edge.path = drawn("path", { class: edge.messages ? "arrow used" : "arrow", d: curve.path });
      group.append(edge.path, drawn("path", { class: "head", d: curve.head }));
      svg.append(group);
      const half = 3.4 * (edge.channel.length + 12);
      const place = this.#place(curve.at, half, taken);
      taken.push([...place, half, 9]);
      const [x, y] = place;
      edge.text = drawn("text", { class: "beside", x, y, dy: "0.36em", "text-anchor": "middle" });
      labels.push(edge.text);
      edge.group = group;
      this.#label(edge);
      cover(x, y, half, 9);
      cover(...curve.at(0.5), 4, 4);
    }
    for (const [name, { x, y, width }] of boxes) {
      const group = drawn("g", { class: `node ${this.states.get(name) ?? ""}` });
      const [left, top] = [x - width / 2, y - HIGH / 2];
      group.append(drawn("rect", { x: left, y: top, width, height: HIGH, rx: 9 }));
      const text = drawn("text", { x, y, dy: "0.36em", "text-anchor": "middle" });
      text.textContent = shown(name);
      group.append(text);
      if (shown(name) !== name) {
        const title = drawn("title", {});
        title.textContent = name;
        group.append(title);
      }
      svg.append(group);
      this.nodes.set(name, group);
      cover(x, y, width / 2 + 3, HIGH / 2 + 3);
    }
    svg.append(...labels);
    const [left, top] = [Math.min(...hull.left), Math.min(...hull.top)];
    const [width, height] = [Math.max(...hull.right) - left, Math.max(...hull.low) - top];
    svg.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
  }

  // A line between neighbours, a bow for what skips layers, goes back or has company.
  #curve(edge, boxes) {
    const from = boxes.get(edge.from), to = boxes.get(edge.to);
    const layer = (name) => this.layers.findIndex((names) => names.includes(name));
    const alike = this.edges.filter((one) => one.from === edge.from && one.to === edge.to);
    const steps = layer(edge.to) - layer(edge.from);
    const spread = 2 * alike.indexOf(edge) - (alike.length - 1);
    const beside = this.downward ? to.x + from.x : -to.y - from.y;
    const away = steps > 1 && beside < this.middle ? -1 : 1;
    const bow = (steps === 1 ? 0 : 56 * away) + 34 * spread;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const far = Math.hypot(dx, dy) || 1;
    const middle = [(from.x + to.x) / 2 + (bow * dy) / far, (from.y + to.y) / 2 - (bow * dx) / far];
    const bend = [2 * middle[0] - (from.x + to.x) / 2, 2 * middle[1] - (from.y + to.y) / 2];
    const begin = edgeOf(from, bend), end = edgeOf(to, bend);
    const angle = Math.atan2(end[1] - bend[1], end[0] - bend[0]);
    const wing = (turn) => [end[0] - 9 * Math.cos(angle + turn), end[1] - 9 * Math.sin(angle + turn)];
    const on = (t, n) => (1 - t) ** 2 * begin[n] + 2 * t * (1 - t) * bend[n] + t ** 2 * end[n];
    return {
      path: `M${begin}Q${bend} ${end}`,
      head: `M${end}L${wing(0.42)}L${wing(-0.42)}Z`,
      at: (t) => [on(t, 0), on(t, 1)],
    };
  }

  // Where beside an arrow a label has most room: the middle of [x, y, half its width and height].
  #place(at, half, taken) {
    let [best, least] = [null, Infinity];
    for (const t of [0.5, 0.4, 0.6, 0.3, 0.7]) {
      for (const side of [1, -1]) {
        const [x, y] = at(t);
        const place = this.downward ? [x + side * (half + 6), y] : [x, y - side * 12];
        const covered = sum(taken.map((box) => overlap([...place, half, 9], box)));
        if (covered < least) [best, least] = [place, covered];
      }
    }
    return best;
  }

  #label({ text, channel, messages, bytes: size }) {
    const many = messages > 1 ? `${messages} × ` : "";
    text.textContent = messages ? `${many}${channel} · ${bytes(size)}` : channel;
  }

  #travel(edge) {
    if (still.matches || edge.dot || !this.element.isConnected) return;
    const { path } = edge;
    const length = path.getTotalLength(), begun = performance.now();
    edge.dot = drawn("circle", { class: "dot", r: 6 });
    edge.group.append(edge.dot);
    const step = (now) => {
      const part = Math.max(0, now - begun) / 700;
      if (part >= 1 || !path.isConnected) {
        edge.dot.remove();
        edge.dot = null;
        return;
      }
      const { x, y } = path.getPointAtLength(part * length);
      edge.dot.setAttribute("transform", `translate(${x} ${y})`);
      requestAnimationFrame(step);
    };
    step(begun);
  }
}

function keyOf({ from, to, channel }) {
  return JSON.stringify([from, to, channel]);
}

// Each agent after those before it in the order of turns that send to it.
function layersOf(names, edges) {
  const layers = [];
  const depth = new Map();
  names.forEach((name, n) => {
    const before = edges.filter((edge) => edge.to === name && names.indexOf(edge.from) < n);
    const deep = Math.max(0, ...before.map((edge) => depth.get(edge.from) + 1));
    depth.set(name, deep);
    (layers[deep] ??= []).push(name);
  });
  return layers;
}

function edgeOf({ x, y, width }, [toX, toY]) {
  const [dx, dy] = [toX - x || 1e-6, toY - y || 1e-6];
  const part = Math.min((width / 2 + 3) / Math.abs(dx), (HIGH / 2 + 3) / Math.abs(dy));
  return [x + part * dx, y + part * dy];
}

function drawn(tag, more) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
  return element;
}

function shown(name) {
  return name.length > 18 ? `${name.slice(0, 17)}…` : name;
}

// The area that two boxes share, each [x, y, half its width, half its height].
function overlap(one, two) {
  const along = (n) => Math.max(0, one[n + 2] + two[n + 2] - Math.abs(one[n] - two[n]));
  return along(0) * along(1);
}

function sum(values) {
  return values.reduce((one, two) => one + two, 0);
}
