// The graph of agents: layers by who hears whom, from left to right, or downward where it is narrow.
import { bytes } from "./dom.js";

const HIGH = 36, GAP = 150, ROW = 84, COLUMN = 24, DOWN = 104, CLOSE = 60;
const LABEL = "13px system-ui, sans-serif", NAME = "600 14px system-ui, sans-serif";
const COLOURS = ["blue", "orange", "green", "violet", "ochre", "pink"];
const colours = new Map([["text", "blue"]]);
const pen = document.createElement("canvas").getContext("2d");
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
    this.lay(Infinity);
  }

  // Lay it out for a width in pixels.
  lay(width) {
    const across = this.#across();
    const downward = across.width > width;
    if (!downward && this.downward === false) return;
    this.downward = downward;
    this.#draw(downward ? this.#down(width) : across.boxes);
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

  // Layers beside each other.
  #across() {
    const boxes = new Map();
    const most = Math.max(...this.layers.map((layer) => layer.length));
    let along = 0;
    for (const layer of this.layers) {
      const widest = Math.max(...layer.map(wide));
      layer.forEach((name, n) => {
        const y = (n + (most - layer.length) / 2) * ROW;
        boxes.set(name, { x: along + widest / 2, y, width: wide(name) });
      });
      along += widest + GAP;
    }
    return { boxes, width: along - GAP };
  }

  // Layers below each other, or all agents in one column if a layer is too wide.
  #down(width) {
    const wides = this.layers.map((layer) => sum(layer.map(wide)) + COLUMN * (layer.length - 1));
    this.column = Math.max(...wides) > width;
    const boxes = new Map();
    if (this.column) {
      const widest = Math.max(...this.agents.map(wide));
      this.agents.forEach((name, n) => boxes.set(name, { x: 0, y: n * CLOSE, width: widest }));
      return boxes;
    }
    this.layers.forEach((layer, n) => {
      let x = -wides[n] / 2;
      for (const name of layer) {
        boxes.set(name, { x: x + wide(name) / 2, y: n * DOWN, width: wide(name) });
        x += wide(name) + COLUMN;
      }
    });
    return boxes;
  }

  #draw(boxes) {
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
      const half = measured(`${edge.channel} · 999.9 kB`, LABEL) / 2;
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
    const alike = this.edges.filter((one) => one.from === edge.from && one.to === edge.to);
    const spread = 2 * alike.indexOf(edge) - (alike.length - 1);
    if (this.downward && this.column) return beside(from, to, 12 * spread);
    const layer = (name) => this.layers.findIndex((names) => names.includes(name));
    const steps = layer(edge.to) - layer(edge.from);
    const off = this.downward ? to.x + from.x : -to.y - from.y;
    const away = steps > 1 && off < this.middle ? -1 : 1;
    const bow = (steps === 1 ? 0 : 56 * away) + 34 * spread;
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const far = Math.hypot(dx, dy) || 1;
    const bend = [
      (from.x + to.x) / 2 + (2 * bow * dy) / far,
      (from.y + to.y) / 2 - (2 * bow * dx) / far,
    ];
    return arrow(edgeOf(from, bend), bend, edgeOf(to, bend));
  }

  // Where beside an arrow a label has most room: the middle of [x, y, half its width and height].
  #place(at, half, taken) {
    let [best, least] = [null, Infinity];
    for (const t of [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.1]) {
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

// An arrow between two boxes of a column, in a bow on their right.
function beside(from, to, more) {
  const side = from.x + from.width / 2 + 3;
  const bow = 24 + 0.16 * Math.abs(to.y - from.y) + more;
  return arrow([side, from.y], [side + 2 * bow, (from.y + to.y) / 2], [side, to.y]);
}

// at: the place on it after some part of the way.
function arrow(begin, bend, end) {
  const angle = Math.atan2(end[1] - bend[1], end[0] - bend[0]);
  const wing = (turn) => [end[0] - 9 * Math.cos(angle + turn), end[1] - 9 * Math.sin(angle + turn)];
  const on = (t, n) => (1 - t) ** 2 * begin[n] + 2 * t * (1 - t) * bend[n] + t ** 2 * end[n];
  return {
    path: `M${begin}Q${bend} ${end}`,
    head: `M${end}L${wing(0.42)}L${wing(-0.42)}Z`,
    at: (t) => [on(t, 0), on(t, 1)],
  };
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

// How wide the box of an agent is.
function wide(name) {
  return 28 + measured(shown(name), NAME);
}

function measured(words, font) {
  pen.font = font;
  return pen.measureText(words).width;
}

function shown(name) {
  return name.length > 18 ? `${name.slice(0, 9)}…${name.slice(-8)}` : name;
}

// The area that two boxes share, each [x, y, half its width, half its height].
function overlap(one, two) {
  const along = (n) => Math.max(0, one[n + 2] + two[n + 2] - Math.abs(one[n] - two[n]));
  return along(0) * along(1);
}

function sum(values) {
  return values.reduce((one, two) => one + two, 0);
}
