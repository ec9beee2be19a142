// The graph of agents, from left to right, or downward where that leaves more room. dagre lays it out.
import { bytes } from "./dom.js";

const { Graph: Drawing } = globalThis.dagre.graphlib;
const HIGH = 36, LINE = 18, EDGE = 4; // pixels: of an agent, of a label, around all of it
const ROUND = 22; // of corners
const SPACE = { nodesep: 24, edgesep: 20, ranksep: 44 };
const LEAST = 0.75; // of its size, below which a graph scrolls instead
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
  constructor({ agents, edges, rounds }) {
    this.agents = agents.map(({ name }) => name);
    this.edges = edges.map((edge) => ({ ...edge, key: keyOf(edge), messages: 0, bytes: 0 }));
    this.layouts = ["LR", "TB"].map((way) => this.#laid(way, rounds));
    this.states = new Map();
    this.element = drawn("svg", { class: "graph", role: "img", focusable: "false" });
    const told = this.edges.map((edge) => `${edge.from} to ${edge.to} over ${edge.channel}`);
    const names = this.agents.join(", ");
    this.element.setAttribute("aria-label", `Agents ${names}. ${told.join("; ") || "No messages"}.`);
    this.lay(Infinity);
  }

  // Draw it for a width in pixels.
  lay(width) {
    const [across, down] = this.layouts;
    const room = (layout) => Math.min(1, width / layout.graph().width);
    const layout = room(down) > room(across) ? down : across;
    if (layout !== this.layout) this.#draw(layout);
    this.element.style.minWidth = `${Math.round(LEAST * layout.graph().width)}px`;
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

  // way: LR or TB. Labels get the room that they will need. Of edges that begin or end together,
  // dagre puts the last one first.
  #laid(way, rounds) {
    const layout = new Drawing({ multigraph: true });
    layout.setGraph({ rankdir: way, marginx: EDGE, marginy: EDGE, ...SPACE });
    for (const name of this.agents) {
      layout.setNode(name, { width: 28 + measured(shown(name), NAME), height: HIGH });
    }
    for (const { from, to, channel, key } of this.edges.toReversed()) {
      const width = measured(`${rounds > 1 ? `${rounds} × ` : ""}${channel} · 999.9 kB`, LABEL);
      layout.setEdge(from, to, { width, height: LINE, labelpos: "l", labeloffset: 4 }, key);
    }
    globalThis.dagre.layout(layout);
    return layout;
  }

  #draw(layout) {
    const svg = this.element;
    this.layout = layout;
    this.nodes = new Map();
    const { width, height, rankdir } = layout.graph();
    svg.replaceChildren();
    const labels = this.edges.map((edge) => {
      const place = layout.edge(edge.from, edge.to, edge.key);
      const { path, head } = arrow(place, rankdir === "LR");
      edge.group = drawn("g", { class: `edge ${colourOf(edge.channel)}` });
      edge.path = drawn("path", { class: edge.messages ? "arrow used" : "arrow", d: path });
      edge.group.append(edge.path, drawn("path", { class: "head", d: head }));
      svg.append(edge.group);
      edge.text = written("beside", place, "");
      this.#label(edge);
      return edge.text;
    });
    for (const name of this.agents) svg.append(this.#node(name, layout.node(name)));
    svg.append(...labels);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
  }

  #node(name, { x, y, width, height }) {
    const node = drawn("g", { class: `node ${this.states.get(name) ?? ""}` });
    node.append(drawn("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 9 }));
    node.append(written("", { x, y }, shown(name)));
    if (shown(name) !== name) {
      node.append(drawn("title", {}));
      node.lastChild.textContent = name;
    }
    this.nodes.set(name, node);
    return node;
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

// A line along the points of an edge, with round corners, straight where its label is beside it.
function arrow({ points, x, y, width, height }, across) {
  const off = ({ x: left, y: top }) => Math.abs(across ? left - x : top - y);
  const beside = points.reduce((one, two) => (off(two) < off(one) ? two : one));
  const [dx, dy] = across ? [width / 2, 0] : [0, height / 2];
  const forth = across ? points.at(-1).x > points[0].x : points.at(-1).y > points[0].y;
  const ends = [-1, 1].map((side) => [beside.x + side * dx, beside.y + side * dy]);
  if (!forth) ends.reverse();
  const line = points.flatMap((one) => (one === beside ? ends : [[one.x, one.y]]));
  const corners = line.slice(1, -1).map((corner, n) => {
    return `L${towards(corner, line[n])}Q${corner} ${towards(corner, line[n + 2])}`;
  });
  const [end, bend] = [line.at(-1), line.at(-2)];
  const angle = Math.atan2(end[1] - bend[1], end[0] - bend[0]);
  const wing = (turn) => [end[0] - 9 * Math.cos(angle + turn), end[1] - 9 * Math.sin(angle + turn)];
  const path = `M${line[0]}${corners.join("")}L${end}`;
  return { path, head: `M${end}L${wing(0.42)}L${wing(-0.42)}Z` };
}

// The place where a corner begins, on the way to another point.
function towards([x, y], [toX, toY]) {
  const far = Math.hypot(toX - x, toY - y) || 1;
  const part = Math.min(ROUND, far / 2) / far;
  return [x + part * (toX - x), y + part * (toY - y)];
}

function drawn(tag, more) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(more)) element.setAttribute(key, value);
  return element;
}

function written(name, { x, y }, words) {
  const text = drawn("text", { class: name, x, y, dy: "0.36em", "text-anchor": "middle" });
  text.textContent = words;
  return text;
}

function measured(words, font) {
  pen.font = font;
  return pen.measureText(words).width;
}

function shown(name) {
  return name.length > 18 ? `${name.slice(0, 9)}…${name.slice(-8)}` : name;
}
