// Tables are sorted by the column whose head is pressed; without a script they stay as they are.
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const value = (row) => row.cells[column].dataset.value;
      const numbers = head.classList.contains("number");
      const order = (one, two) =>
        numbers ? value(one) - value(two) : value(one).localeCompare(value(two));
      const rows = [...body.rows].sort((one, two) => (up ? order(one, two) : order(two, one)));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });
}

// What is wider than its box says so, as long as it is.
const wide = [...document.querySelectorAll(".scroll, .wide")].map((box) => {
  const hint = document.createElement("p");
  hint.className = "more";
  hint.textContent = "Scroll sideways to see all of it →";
  hint.hidden = true;
  box.append(hint);
  return [box, hint];
});
const tell = () => {
  for (const [box, hint] of wide) hint.hidden = box.scrollWidth <= box.clientWidth;
};
addEventListener("resize", tell);
tell();
