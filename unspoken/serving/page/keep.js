// A run as one file that replays, with all that it needs in it.

const LIBRARY = ["dagre.LICENSE.txt", "dagre.min.js"];
const MODULES = ["dom.js", "numbers.js", "graph.js", "side.js", "exchange.js", "replay.js"];

// The HTML of a file. It runs its own script alone and asks nobody for anything.
export async function kept(exchange) {
  const [style, licence, library, ...modules] = await Promise.all(
    ["style.css", ...LIBRARY, ...MODULES].map(text),
  );
  const script = modules.map(inlined).join("\n");
  const nonce = [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16)).join("");
  const policy =
    `default-src 'none'; style-src 'nonce-${nonce}'; script-src 'nonce-${nonce}'; img-src data:; ` +
    "base-uri 'none'; form-action 'none'";
  const { question, models, sides } = exchange;
  const run = JSON.stringify({ question, models, events: sides.map((side) => side.events) });
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>A run of agents</title>
<link rel="icon" href="data:,">
<style nonce="${nonce}">${style}</style>
</head>
<body>
<header><p class="kicker">unspoken</p><h1>A run of agents</h1></header>
<main>
<div class="line" id="controls"></div>
<p id="status" role="status" aria-live="polite"></p>
<div id="runs"></div>
</main>
<script type="application/json" id="run">${run.replaceAll("<", "\\u003c")}</script>
<script nonce="${nonce}">
/*
${licence}*/
${library}
</script>
<script type="module" nonce="${nonce}">
${script}
</script>
</body>
</html>
`;
}

export async function keep(exchange) {
  const file = new Blob([await kept(exchange)], { type: "text/html" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = "run.html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function text(name) {
  return (await fetch(new URL(name, import.meta.url))).text();
}

// A module among others in one script: names that it would import are there already.
function inlined(source) {
  return source.replace(/^import .*;$/gm, "").replace(/^export /gm, "");
}
