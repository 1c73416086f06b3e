// What a page does beyond being read: tables sort, sliders move, galleries go by arrow keys.
"use strict";

// Tables: each heading becomes a button. Numbers go by data-key, empty cells last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  if (!body || body.rows.length < 2) continue;
  for (const heading of headings) {
    if (heading.tagName !== "TH") continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) {
        if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      }
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const place = heading.cellIndex;
      const rows = [...body.rows].map((row) => [valueOf(row.cells[place]), row]);
      rows.sort(([a], [b]) => compare(a, b, down));
      body.append(...rows.map(([, row]) => row));
    });
  }
}

function valueOf(cell) {
  if (cell.dataset.key !== undefined) return Number(cell.dataset.key);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}

function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return down ? -order : order;
}

// What scrolls says at which side there is more; a table so in words.
for (const box of document.querySelectorAll(".scroll, .equation, .doc pre")) {
  const hint = document.createElement("p");
  hint.className = "scrolls";
  hint.textContent = "Scroll sideways for more columns.";
  const tell = () => {
    const most = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-left", box.scrollLeft > 1);
    box.classList.toggle("more-right", box.scrollLeft < most - 1);
    hint.hidden = most <= 1;
  };
  if (box.matches(".scroll")) box.before(hint);
  box.addEventListener("scroll", tell);
  new ResizeObserver(tell).observe(box);
}

// The runs: those in which every word of the filter occurs.
for (const filter of document.querySelectorAll(".filter")) {
  const input = filter.querySelector("input");
  const output = filter.querySelector("output");
  const rows = [...document.querySelectorAll("#runs tbody tr")];
  const entries = [...document.querySelectorAll(".run")];
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const names = new Set();
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) names.add(row.cells[0].textContent.trim());
    }
    for (const entry of entries) entry.hidden = !names.has(entry.dataset.name);
    output.textContent = `${names.size} of ${rows.length} runs`;
  };
  input.addEventListener("input", show);
  filter.hidden = false;
  show();
}

// Sliders: one sheet of images a step.
for (const slider of document.querySelectorAll(".slider")) {
  const steps = JSON.parse(slider.dataset.steps);
  const input = slider.querySelector("input");
  const output = slider.querySelector("output");
  const tiles = slider.parentElement.querySelector(".tiles");
  const show = () => {
    const step = steps[input.value];
    const accuracy = step.accuracy ? `: ${step.accuracy} %` : "";
    const words = `${step.iteration} of ${steps[steps.length - 1].iteration}${accuracy}`;
    output.textContent = words;
    input.setAttribute("aria-valuetext", words);
    tiles.style.backgroundImage = `url("${step.sheet}")`;
  };
  input.addEventListener("input", show);
  slider.hidden = false;
  show();
}

// Galleries: one stop of the Tab key a set, arrow keys within it.
for (const tiles of document.querySelectorAll(".tiles")) {
  const images = [...tiles.querySelectorAll(".tile")];
  const columns = Number(tiles.dataset.columns);
  const across = columns > 1 ? columns : 1;
  images.forEach((image, index) => { image.tabIndex = index === 0 ? 0 : -1; });
  tiles.addEventListener("keydown", (event) => {
    const now = images.indexOf(event.target);
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    let next = now + (moves[event.key] ?? 0);
    if (event.key === "Home") next = 0;
    if (event.key === "End") next = images.length - 1;
    if (now < 0 || next === now || !images[next]) return;
    event.preventDefault();
    images[now].tabIndex = -1;
    images[next].tabIndex = 0;
    images[next].focus();
  });
}

// A link to what is folded opens it.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target?.closest("details");
  if (fold && !fold.open) {
    fold.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", open);
open();

const unfold = document.querySelector(".unfold");
if (unfold) {
  unfold.hidden = false;
  unfold.addEventListener("click", () => {
    const folds = [...document.querySelectorAll("details.code")];
    const all = folds.every((fold) => fold.open);
    for (const fold of folds) fold.open = !all;
    unfold.textContent = all ? "Unfold all code" : "Fold all code";
  });
}
