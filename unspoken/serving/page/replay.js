// Shows a kept run again, as fast as it was, or all of it at once.
import { make } from "./dom.js";
import { Exchange } from "./exchange.js";

const { question, models, given, events } = JSON.parse(document.getElementById("run").textContent);
let timer = 0;

function play(atOnce) {
  cancelAnimationFrame(timer);
  const exchange = new Exchange(question, models, given);
  document.getElementById("runs").replaceChildren(exchange.element);
  let [side, next, begun] = [0, 0, performance.now()];
  const step = (now) => {
    while (side < events.length) {
      const event = events[side][next];
      if (event && !atOnce && event.at > now - begun) break;
      if (event) {
        exchange.sides[side].take(event);
        next += 1;
      } else {
        [side, next, begun] = [side + 1, 0, now];
      }
    }
    if (side < events.length) timer = requestAnimationFrame(step);
    else exchange.end();
  };
  step(begun);
}

for (const [words, atOnce] of [["Replay", false], ["Show all at once", true]]) {
  const button = make("button", "", words, { type: "button" });
  button.addEventListener("click", () => play(atOnce));
  document.getElementById("controls").append(button);
}
play(matchMedia("(prefers-reduced-motion: reduce)").matches);
