// The one view behind all widgets of iris_edu: pictures in a grid, of which one may be chosen.
// The kernel sends pixels and words; this file draws them and answers with the chosen cell,
// with presses and, where a widget listens, with keys. It asks nothing of the network.

const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function element(tag, className, attributes = {}) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Paints picture `index` of the pixels, uint8 (count, height, width, 3), on a canvas.
function paint(canvas, pixels, index, height, width) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height), data = image.data;
  for (let from = index * height * width * 3, to = 0; to < data.length; to += 4) {
    data[to] = pixels[from++]; data[to + 1] = pixels[from++]; data[to + 2] = pixels[from++]; data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function render({ model, el }) {
  const root = element("div", "iris-gallery", { role: "group", "data-lm-suppress-shortcuts": "true" });
  const title = element("div", "iris-title"), grid = element("div", "iris-grid"), status = element("div", "iris-status", { role: "status", "aria-live": "polite" });
  root.append(title, grid, status);
  el.replaceChildren(root);
  let cells = [];

  // Makes the cells anew; needed when their number, order or kind changes.
  function build() {
    const focused = grid.contains(document.activeElement);
    const [count] = model.get("shape"), columns = Math.max(1, model.get("columns")), pickable = model.get("pickable"), listens = model.get("listens").length > 0;
    grid.replaceChildren();
    grid.style.gridTemplateColumns = `repeat(${Math.min(columns, Math.max(count, 1))}, max-content)`;
    for (const name of ["role", "tabindex"]) grid.removeAttribute(name);
    grid.setAttribute("role", listens ? "application" : pickable ? "grid" : "img");
    if (listens) grid.tabIndex = 0;
    cells = Array.from({ length: count }, (_, index) => {
      const cell = element(pickable ? "button" : "div", "iris-cell", pickable ? { role: "gridcell", type: "button", tabindex: -1 } : {});
      const canvas = element("canvas", "iris-canvas", { "aria-hidden": "true" }), bar = element("div", "iris-bar"), text = element("div", "iris-text");
      if (!pickable) cell.setAttribute("aria-hidden", "true");
      cell.append(canvas, bar, text);
      if (pickable) cell.addEventListener("click", () => { choose(index); model.send({ type: "press", cell: index }); });
      return { cell, canvas, bar, text };
    });
    for (let from = 0; from < count; from += columns) {
      const row = element("div", "iris-row", pickable ? { role: "row" } : {});
      row.append(...cells.slice(from, from + columns).map((one) => one.cell));
      grid.append(row);
    }
    draw(); write(); mark();
    if (focused) (cells[Math.max(model.get("chosen"), 0)] ?? { cell: grid }).cell.focus();  // a keyboard user stays where the pictures are
  }

  function draw() {
    const view = model.get("pixels"), [count, height, width] = model.get("shape"), zoom = model.get("zoom");
    const pixels = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    if (pixels.length !== count * height * width * 3 || cells.length !== count) return;
    cells.forEach(({ canvas }, index) => {
      paint(canvas, pixels, index, height, width);
      canvas.style.width = `${width * zoom}px`;
      canvas.style.height = `${height * zoom}px`;
    });
  }

  function write() {
    const labels = model.get("labels"), texts = model.get("texts"), bars = model.get("bars");
    title.textContent = model.get("title");
    grid.setAttribute("aria-label", [model.get("title"), model.get("pickable") ? "" : labels.join(", ")].filter(Boolean).join(": "));
    grid.style.gap = `${model.get("gap")}px`;
    status.textContent = model.get("status");
    status.classList.toggle("iris-wrong", model.get("wrong"));
    cells.forEach(({ cell, bar, text }, index) => {
      if (model.get("pickable")) cell.setAttribute("aria-label", labels[index] ?? `picture ${index + 1}`);
      if (labels[index]) cell.title = labels[index];
      text.textContent = texts[index] ?? "";
      bar.style.width = `${100 * Math.min(1, Math.max(0, bars[index] ?? 0))}%`;
      bar.hidden = bars.length === 0;
      text.hidden = texts.length === 0;
    });
  }

  function mark() {
    const chosen = model.get("chosen"), marked = new Set(model.get("marked"));
    cells.forEach(({ cell }, index) => {
      cell.classList.toggle("iris-chosen", index === chosen);
      cell.classList.toggle("iris-marked", marked.has(index));
      if (model.get("pickable")) {
        cell.setAttribute("aria-selected", String(index === chosen));
        cell.tabIndex = index === Math.max(chosen, 0) ? 0 : -1;
      }
    });
  }

  // A widget that runs by itself counts `beat` up with every picture, an unchanged one too, and hears when it is on the screen.
  function answer() { requestAnimationFrame(() => model.send({ type: "drawn" })); }

  function choose(index) {
    if (index === model.get("chosen")) return;
    model.set("chosen", index);
    model.save_changes();
  }

  // Arrow keys move in a grid that lets one choose; Home and End go to its ends.
  function move(event) {
    const at = cells.findIndex(({ cell }) => cell === document.activeElement), columns = model.get("columns");
    if (at < 0) return false;
    let to = event.key === "Home" ? 0 : event.key === "End" ? cells.length - 1 : at;
    if (steps[event.key]) {
      const [down, right] = steps[event.key], column = at % columns + right;
      to = column < 0 || column >= columns ? at : at + down * columns + right;
    } else if (event.key !== "Home" && event.key !== "End") return false;
    if (to >= 0 && to < cells.length) { choose(to); cells[to].cell.focus(); }
    return true;
  }

  function key(event, down) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const listens = model.get("listens");
    if (down && event.key === "Escape") { document.activeElement.blur(); return; }
    if (listens.includes(event.key) && !(model.get("pickable") && steps[event.key])) {
      event.preventDefault();
      if (!event.repeat) model.send({ type: "key", key: event.key, down });
    } else if (down && model.get("pickable") && move(event)) event.preventDefault();
    event.stopPropagation();
  }
  root.addEventListener("keydown", (event) => key(event, true));
  root.addEventListener("keyup", (event) => key(event, false));
  root.addEventListener("focusout", () => { if (model.get("listens").length) model.send({ type: "released" }); });
  grid.addEventListener("pointerdown", () => { if (model.get("listens").length && !model.get("pickable")) grid.focus(); });

  // New cells are only made when their number or kind changes; all else is drawn into those there are.
  const follow = { "shape columns pickable listens": build, "pixels zoom": draw, "title labels texts bars status wrong gap": write, "chosen marked": mark, beat: answer };
  const bound = Object.entries(follow).flatMap(([names, then]) => names.split(" ").map((name) => [`change:${name}`, then]));
  for (const [name, then] of bound) model.on(name, then);
  build();
  return () => { for (const [name, then] of bound) model.off(name, then); };
}

export default { render };
