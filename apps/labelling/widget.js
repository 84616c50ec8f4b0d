// The grid in the browser. One tile is shown at a time; an answer is sent to the kernel, and the
// next tile is shown when the kernel says that the answer is on the disk.

const REFUSED = -2, SKIPPED = -1;
const PATIENCE = 6000; // milliseconds without a word from the kernel
// Okabe and Ito's colours, which colour-blind people tell apart.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7a5195", "#999999"];
const NONE = "none of these";

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const colour = (k) => (k >= 0 ? COLOURS[k % COLOURS.length] : "");

function render({ model, el }) {
  const classes = model.get("classes");
  const audit = model.get("ask") === "audit"; // which no suggestion may steer
  let here = 0; // place in the query
  let shownQuery = null;
  let tile = null; // what the kernel sent for this place
  let suggesting = false; // whether the suggestion is shown now
  let suggested = false; // whether it was shown for this tile
  let waiting = null; // the message whose reply is awaited
  let confirming = false; // Enter was pressed while tiles are open
  let last = null; // {n, label} of the last answer of this tab
  let wrong = "";
  let clock = 0, since = performance.now();
  const spent = []; // seconds of the answers given in this tab
  const cache = new Map();
  let serial = 0;
  const mark = Math.random().toString(36).slice(2, 8); // replies reach every tab: which is ours?

  // --- what there is to see

  const root = element("div", "label-grid");
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  root.setAttribute("aria-label", "Label tiles with the keys 1 to 9");
  const head = element("header");
  const count = element("span", "count"), times = element("span", "quiet times");
  head.append(count, times, element("span", "quiet who", `labelled by ${model.get("who")}`));

  const main = element("div", "main"), left = element("div"), right = element("div");
  if (classes.length > 9) right.className = "wide";
  const frame = element("div", "tile"), image = element("img"), stamp = element("span", "stamp");
  image.alt = "";
  frame.append(image, stamp);
  const path = element("div", "path quiet");
  left.append(frame, path);

  const choices = element("div", "choices");
  const buttons = new Map();
  const choice = (k, key, name) => {
    const button = element("button", "choice");
    button.dataset.choice = k;
    if (k >= 0) button.style.setProperty("--colour", colour(k));
    if (key !== "") button.append(element("kbd", "", key));
    button.append(element("span", "chip"), element("span", "name", name), element("span", "share"));
    button.onclick = () => label(k);
    choices.append(button);
    buttons.set(k, button);
  };
  classes.forEach((name, k) => choice(k, k < 9 ? String(k + 1) : "", name));
  choice(REFUSED, "0", `${NONE} / cannot be judged`);
  const actions = element("div", "actions");
  const action = (key, text, run) => {
    const button = element("button", "action");
    button.append(element("kbd", "", key), element("span", "", text));
    button.onclick = run;
    button.dataset.key = key;
    actions.append(button);
    return button;
  };
  action("u", "undo", () => send({ kind: "undo" }));
  action("s", "skip", () => answer("skip"));
  action("←", "back", () => move(-1));
  action("→", "forward", () => move(1));
  const hint = action("m", "show the model's suggestion", () => suggest());
  if (audit) hint.remove();
  action("Enter", `finish the ${audit ? "audit" : "round"}`, () => finish());
  const said = element("div", "last quiet");
  right.append(choices, actions, said);
  main.append(left, right);

  const title = element("h4", "", "Most similar tiles, with the labels that you gave them");
  const near = element("div", "near"), strip = element("div", "strip");
  const bar = element("div", "bar");
  bar.setAttribute("role", "status");
  const asleep = element("div", "bar asleep", "The keys are off: click here, or press Tab until this frame is blue.");
  root.append(head, main, title, near, strip, bar, asleep);
  el.append(root);

  // --- keys

  const keys = {
    u: () => send({ kind: "undo" }), s: () => answer("skip"), m: suggest, Enter: finish,
    ArrowLeft: () => move(-1), ArrowRight: () => move(1), 0: () => label(REFUSED),
  };
  const ours = (event) => !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey && event.key !== "Tab";
  // JupyterLab looks at every key before the page does, but not inside an element with this mark.
  // With Ctrl, Alt, Shift a key stays JupyterLab's: Ctrl+S saves, Shift+Enter runs the cell.
  const guard = (event) => {
    if (root.contains(event.target)) root.toggleAttribute("data-lm-suppress-shortcuts", ours(event));
  };
  window.addEventListener("keydown", guard, true);
  root.addEventListener("keydown", (event) => {
    if (!ours(event)) return;
    event.stopPropagation();
    const onButton = event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter");
    if (onButton && event.target.matches(":focus-visible")) return; // a button reached with Tab
    event.preventDefault();
    if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held labels one tile
    root.scrollIntoView({ block: "nearest" });
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key >= "1" && key <= "9" && Number(key) <= classes.length) label(Number(key) - 1);
    else if (Object.hasOwn(keys, key)) keys[key]();
  });
  root.addEventListener("click", () => root.focus({ preventScroll: true }));

  // --- talking to the kernel

  let timer = 0;
  function send(content, patience = PATIENCE) {
    if (waiting || model.get("phase") !== "label") return;
    waiting = { id: `${mark}-${++serial}`, query: shownQuery, ...content };
    clearTimeout(timer);
    timer = setTimeout(unheard, patience);
    post(waiting);
    draw();
  }

  function post(content) {
    try {
      model.send(content);
    } catch {
      unheard(); // the kernel is gone, and with it the line to it
    }
  }

  function unheard() {
    clearTimeout(timer);
    waiting = null;
    wrong = "The kernel does not answer: the last key is perhaps not saved. If it is at work, wait; if it was "
      + "stopped, run all cells again. Every other answer is on the disk.";
    draw();
  }

  const received = (reply, buffers) => {
    if (!reply || !String(reply.id).startsWith(mark)) return;
    if (reply.kind === "tile") return tileCame(reply, buffers);
    if (waiting && reply.id === waiting.id) {
      clearTimeout(timer);
      const asked = waiting;
      waiting = null;
      wrong = reply.error ? `Not saved. ${reply.error}` : "";
      if (!reply.error) done(asked, reply);
    } else wrong = reply.error ? `Not saved. ${reply.error}` : ""; // late, but on the disk
    draw();
  };

  function done(asked, reply) {
    if (asked.kind === "label" || asked.kind === "skip") {
      last = { n: asked.n, label: asked.kind === "skip" ? SKIPPED : asked.label };
      spent.push(asked.seconds);
      flash(last.label);
      advance();
    } else if (asked.kind === "undo") {
      if (reply.n === null) last = { nothing: true };
      else {
        last = { n: reply.n, undone: true };
        go(reply.n);
      }
    }
  }

  function request(n) {
    if (n === undefined || cache.has(n)) return;
    cache.set(n, null);
    post({ kind: "tile", id: `${mark}-${shownQuery}-tile${n}`, n, query: shownQuery });
  }

  function tileCame(reply, buffers) {
    const [, number, place] = reply.id.split("-");
    const n = Number(place.slice(4));
    if (Number(number) !== shownQuery) return; // of a query that is done
    if (reply.error) {
      cache.delete(n);
      if (n === here) wrong = reply.error;
    } else {
      const urls = buffers.map((b) => URL.createObjectURL(new Blob([b], { type: "image/jpeg" })));
      cache.set(n, { ...reply, urls });
      for (const old of cache.keys()) if (cache.size > 6 && Math.abs(old - here) > 2) forget(old);
    }
    draw();
  }

  function forget(n) {
    cache.get(n)?.urls.forEach((url) => URL.revokeObjectURL(url));
    cache.delete(n);
  }

  // --- moving

  const status = () => model.get("query").status ?? [];
  const isOpen = (n) => status()[n]?.open;

  function go(n) {
    here = n;
    suggested = suggesting;
    confirming = false;
    clock = 0;
    since = performance.now();
    request(n);
    request(nextOpen(n) ?? n);
    draw();
  }

  function nextOpen(from) {
    const all = status().map((_, n) => (from + 1 + n) % status().length);
    return all.find((n) => n !== from && isOpen(n));
  }

  function advance() {
    const next = nextOpen(here);
    if (next === undefined) go(Math.min(here, status().length - 1));
    else go(next);
  }

  function move(by) {
    if (!waiting) go(Math.max(0, Math.min(status().length - 1, here + by)));
  }

  const seconds = () => Math.round(clock + (document.hidden ? 0 : performance.now() - since)) / 1000;
  const hidden = () => {
    if (document.hidden) clock += performance.now() - since;
    since = performance.now();
  };
  document.addEventListener("visibilitychange", hidden);

  // --- answers

  function answer(kind, k = null) {
    if (cache.get(here)) send({ kind, n: here, label: k, seconds: seconds(), suggestion: suggested });
  }
  function label(k) { answer("label", k); }
  function suggest() {
    if (audit) return;
    suggesting = !suggesting;
    suggested ||= suggesting;
    draw();
  }
  function finish() {
    const open = status().filter((s) => s.open).length;
    if (open && !confirming) confirming = true;
    else send({ kind: "finish" }, 24 * 3600 * 1000); // training takes its time
    draw();
  }
  function flash(k) {
    const button = buttons.get(k);
    buttons.forEach((other) => other.classList.remove("pressed"));
    button?.classList.add("pressed");
    setTimeout(() => button?.classList.remove("pressed"), 450);
  }

  // --- drawing

  const word = (k) => (k === SKIPPED ? "skipped" : k === REFUSED ? NONE : classes[k]);

  function draw() {
    const all = status(), mine = all[here]?.mine ?? null, phase = model.get("phase");
    const labelled = all.filter((s) => s.mine !== null && s.mine !== SKIPPED).length;
    const skipped = all.filter((s) => s.mine === SKIPPED).length;
    const others = all.filter((s) => s.mine === null && !s.open).length;
    const parts = [`${labelled} of ${all.length} labelled`];
    if (skipped) parts.push(`${skipped} skipped`);
    if (others) parts.push(`${others} by others`);
    count.textContent = parts.join(", ");
    root.dataset.labelled = labelled;
    root.dataset.here = here;
    root.dataset.phase = phase;
    root.dataset.query = model.get("query").number;
    root.classList.toggle("closed", phase !== "label");

    tile = cache.get(here) ?? null;
    root.dataset.ready = tile && !waiting ? "yes" : "no";
    image.src = tile ? tile.urls[0] : "";
    image.style.visibility = tile ? "" : "hidden";
    path.textContent = `tile ${here + 1} of ${all.length}`;
    frame.title = root.dataset.path = tile?.path ?? ""; // on hover only: a folder's name may steer
    stamp.textContent = mine === null ? "" : word(mine);
    stamp.style.display = mine === null ? "none" : "";
    stamp.style.borderColor = colour(mine ?? SKIPPED) || "#999";
    frame.style.borderColor = colour(mine ?? SKIPPED);
    const shown = suggesting && tile ? tile.suggestion : null;
    buttons.forEach((button, k) => {
      button.classList.toggle("chosen", mine === k);
      button.classList.toggle("suggested", shown?.class === k);
      button.querySelector(".share").textContent =
        shown?.class === k ? `model: ${Math.round(100 * shown.probability)} %` : "";
    });
    hint.lastChild.textContent = suggesting ? "hide the model's suggestion" : "show the model's suggestion";

    near.replaceChildren(...(tile?.urls.slice(1) ?? []).map((url, i) => {
      const figure = element("figure"), small = element("img");
      small.src = url;
      small.alt = "";
      small.style.setProperty("--colour", colour(classes.indexOf(tile.captions[i])));
      figure.append(small, element("figcaption", "", tile.captions[i]));
      figure.title = tile.captions[i];
      return figure;
    }));
    strip.replaceChildren(...all.map((s, n) => {
      const square = element("i", n === here && phase === "label" ? "here" : "");
      if (s.mine === REFUSED) square.classList.add("refused");
      else if (s.mine === SKIPPED) square.classList.add("skipped");
      else if (s.mine !== null) square.style.setProperty("--colour", colour(s.mine));
      else if (!s.open) square.classList.add("others");
      square.title = `tile ${n + 1}: ${s.mine === null ? (s.open ? "open" : "labelled by others") : word(s.mine)}`;
      square.onclick = () => !waiting && phase === "label" && go(n);
      return square;
    }));

    said.textContent = !last ? "The keys label the tile on the left; the next one follows by itself."
      : last.nothing ? "There is nothing to undo."
      : last.undone ? `Took back the answer to tile ${last.n + 1}: it is open again.`
      : `Saved: tile ${last.n + 1} is ${last.label === SKIPPED ? "skipped" : word(last.label)}.`;
    tick();
    tell(all, phase);
  }

  function tell(all, phase) {
    const open = all.filter((s) => s.open).length;
    const [text, kind] = wrong ? [wrong, "wrong"]
      : phase === "busy" ? [audit ? "The audit is finished …" : "The round is finished. Two networks learn from the answers …", "ask"]
      : phase === "failed" ? [model.get("note"), "wrong"]
      : phase === "done" ? ["Finished: no tile waits. Every answer is on the disk; go on with the cells below.", "good"]
      : confirming && open ? [`${open} ${open === 1 ? "tile is" : "tiles are"} still open. ${audit
        ? "To go on later, close the tab. Enter again ends the audit without them, and its interval is the wider." : "Enter again leaves them out of this round."}`, "ask"]
      : !open ? [`All tiles are labelled. Enter finishes the ${audit ? "audit" : "round"}; u or ← goes back.`, "good"]
      : ["", ""];
    bar.textContent = text;
    bar.className = `bar ${kind}`;
    bar.style.display = text ? "" : "none";
  }

  function tick() {
    const mean = spent.length ? `, ${(spent.reduce((a, b) => a + b) / spent.length).toFixed(1)} s per tile` : "";
    const open = isOpen(here) && model.get("phase") === "label";
    times.textContent = (open ? `${Math.floor(seconds())} s` : "") + (open ? mean : mean.slice(2));
  }
  const ticking = setInterval(tick, 1000);

  // --- the kernel's half has changed: an answer of this or of another tab, or another query

  const changed = () => {
    if (model.get("query").number !== shownQuery) {
      shownQuery = model.get("query").number;
      [...cache.keys()].forEach(forget);
      last = null;
      const first = status().findIndex((s) => s.open);
      if (status().length) go(first < 0 ? status().length - 1 : first);
    }
    draw();
  };
  model.on("change:query", changed);
  model.on("change:phase", draw);
  model.on("change:note", draw);
  model.on("msg:custom", received);
  changed();
  const typing = document.activeElement?.closest?.("input, textarea, .cm-content");
  if (!typing) {
    setTimeout(() => {
      root.focus({ preventScroll: true });
      root.scrollIntoView({ block: "center" });
    }, 100); // JupyterLab has shown the cell by then
  }

  return () => {
    window.removeEventListener("keydown", guard, true);
    document.removeEventListener("visibilitychange", hidden);
    model.off("change:query", changed);
    model.off("change:phase", draw);
    model.off("change:note", draw);
    model.off("msg:custom", received);
    clearInterval(ticking);
    clearTimeout(timer);
    [...cache.keys()].forEach(forget);
  };
}

export default { render };
