// The view of one slide: deep zoom, overlays, scale bar, and what was predicted for a tile.
// The address may say what to show: #overlay=prob-2&irrelevant=off&opacity=70&tile=12
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { picture, tiles } = data;
  const width = picture.slide_width; // level-0 pixels; the viewer's unit of length

  const viewer = OpenSeadragon({
    element: byId("viewer"),
    drawer: "canvas", // pictures from files taint WebGL textures
    crossOriginPolicy: false,
    showNavigationControl: false,
    animationTime: 0.4,
    maxZoomPixelRatio: 4,
    minZoomImageRatio: 0.7,
    visibilityRatio: 0.4,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    tileSources: {
      width: picture.width,
      height: picture.height,
      tileSize: picture.tile_size,
      tileOverlap: picture.overlap,
      minLevel: picture.min_level,
      maxLevel: picture.max_level,
      getTileUrl: (level, x, y) => `tiles/${level}/${x}_${y}.${picture.format}`,
    },
  });

  // --- overlays ---

  const state = { overlay: "class", irrelevant: true, opacity: 50, off: false };
  const added = {}; // overlay name → promise of its picture in the viewer

  const image = (key) => {
    const { file, x, y, width: across } = data.overlays[key];
    added[key] ??= new Promise((resolve, reject) =>
      viewer.addTiledImage({
        tileSource: { type: "image", url: file, buildPyramid: false },
        x: x / width,
        y: y / width,
        width: across / width,
        opacity: 0,
        success: (event) => resolve(event.item),
        error: reject,
      })
    );
    return added[key];
  };

  const visible = (key) =>
    !state.off && (key === "irrelevant" ? state.irrelevant : key === state.overlay);

  const draw = () => {
    for (const key of Object.keys(data.overlays)) {
      if (!visible(key) && !added[key]) continue;
      image(key).then((item) => item.setOpacity(visible(key) ? state.opacity / 100 : 0));
    }
  };

  const show = () => {
    document.querySelector(`input[name="overlay"][value="${state.overlay}"]`).checked = true;
    byId("irrelevant").checked = state.irrelevant;
    byId("opacity").value = state.opacity;
    byId("percent").textContent = state.off ? "off" : `${state.opacity} %`;
    for (const legend of document.querySelectorAll("#legends [data-overlay]")) {
      legend.hidden = legend.dataset.overlay !== state.overlay;
    }
    byId("legends").hidden = state.overlay === "none";
    if (viewer.isOpen()) draw();
  };

  const change = (changed) => {
    if ("overlay" in changed) forget();
    Object.assign(state, { off: false }, changed);
    show();
    const irrelevant = state.irrelevant ? "on" : "off";
    const hash = `#overlay=${state.overlay}&irrelevant=${irrelevant}&opacity=${state.opacity}`;
    location.replace(hash);
    for (const link of document.querySelectorAll("a.keep")) link.hash = hash;
  };

  const follow = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const overlay = asked.get("overlay");
    if (overlay === "none" || (overlay !== "irrelevant" && Object.hasOwn(data.overlays, overlay))) {
      if (overlay !== state.overlay) forget();
      state.overlay = overlay;
    }
    if (asked.has("irrelevant")) state.irrelevant = asked.get("irrelevant") !== "off";
    const opacity = asked.has("opacity") ? Number(asked.get("opacity")) : NaN;
    if (opacity >= 0 && opacity <= 100) state.opacity = opacity;
    show();
    const number = asked.has("tile") ? Number(asked.get("tile")) : -1;
    if (viewer.isOpen() && tiles.coords[number]) goTo(number, true);
  };

  byId("overlays").addEventListener("change", (event) => change({ overlay: event.target.value }));
  byId("irrelevant").addEventListener("change", (event) =>
    change({ irrelevant: event.target.checked })
  );
  byId("opacity").addEventListener("input", (event) => {
    Object.assign(state, { off: false, opacity: Number(event.target.value) });
    show();
  });
  byId("opacity").addEventListener("change", () => change({}));
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "o" || event.ctrlKey || event.metaKey || event.altKey) return;
    state.off = !state.off;
    show();
  });
  window.addEventListener("hashchange", follow);
  viewer.addHandler("tile-drawing", ({ tiledImage, context }) => {
    if (tiledImage !== viewer.world.getItemAt(0)) context.imageSmoothingEnabled = false;
  });

  // --- tiles ---

  const mark = document.createElement("div");
  mark.className = "mark";
  let marked = -1;
  let strongest = null; // tiles by the value of the overlay, the highest first
  let rank = -1;

  const forget = () => {
    strongest = null;
    byId("place").textContent = "";
  };

  const rectangle = (number) => {
    const [x, y] = tiles.coords[number];
    const side = [tiles.width / width, tiles.height / width];
    return new OpenSeadragon.Rect(x / width, y / width, ...side);
  };

  const element = (tag, text, className = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  };

  const classLine = ([name, colour], k, number) => {
    const line = element("li", "");
    const chip = element("span", name, "chip");
    chip.style.setProperty("--colour", colour);
    const probability = (tiles.percent[number][k] / 100).toFixed(2);
    line.append(chip, element("span", probability, "number"));
    return line;
  };

  const describe = (number) => {
    if (!tiles.relevant[number]) {
      const other = tiles.other?.[number];
      return [element("p", `Irrelevant tissue${other ? `, most like ${other}` : ""}. Not counted.`)];
    }
    const list = element("ul", "", "key");
    list.append(...data.classes.map((pair, k) => classLine(pair, k, number)));
    const times = tiles.attention?.[number];
    const attention = times == null ? [] : [element("p", `Attention: ${times} × the mean`)];
    return [list, ...attention];
  };

  const select = (number) => {
    if (number === marked) return;
    viewer.removeOverlay(mark);
    marked = number;
    if (number < 0) {
      byId("tile").replaceChildren(element("p", "No tile here.", "quiet"));
      return;
    }
    viewer.addOverlay({ element: mark, location: rectangle(number) });
    byId("tile").replaceChildren(...describe(number));
  };

  const selectAt = (point) => {
    const [x, y] = [point.x * width, point.y * width];
    select(
      tiles.coords.findIndex(
        ([left, top]) =>
          left <= x && x < left + tiles.width && top <= y && y < top + tiles.height
      )
    );
  };

  byId("viewer").addEventListener("pointermove", (event) => {
    if (event.buttons) return;
    const box = byId("viewer").getBoundingClientRect();
    const at = new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top);
    selectAt(viewer.viewport.viewerElementToViewportCoordinates(at));
  });

  const goTo = (number, immediately = false) => {
    const around = rectangle(number);
    const side = Math.max(around.width, around.height) * 5;
    const centre = around.getCenter();
    const box = new OpenSeadragon.Rect(centre.x - side / 2, centre.y - side / 2, side, side);
    viewer.viewport.fitBounds(box, immediately);
    select(number);
  };

  const value = (number) => {
    if (state.overlay === "attention") return tiles.attention[number] ?? -1;
    if (state.overlay === "class") return Math.max(...tiles.percent[number]);
    return tiles.percent[number][Number(state.overlay.slice(5)) - 1];
  };

  const step = (by) => {
    if (!strongest) {
      const counted = [...tiles.coords.keys()].filter((number) => tiles.relevant[number]);
      strongest = counted.sort((one, two) => value(two) - value(one));
      rank = by > 0 ? -1 : 1;
    }
    if (!strongest.length) return;
    rank = Math.min(Math.max(rank + by, 0), strongest.length - 1);
    byId("place").textContent = `${rank + 1} of ${strongest.length}`;
    goTo(strongest[rank]);
  };
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));

  // --- zoom and scale ---

  const zoomBy = (factor) => {
    viewer.viewport.zoomBy(factor);
    viewer.viewport.applyConstraints();
  };
  byId("zoom-in").addEventListener("click", () => zoomBy(2));
  byId("zoom-out").addEventListener("click", () => zoomBy(0.5));
  byId("whole").addEventListener("click", () => viewer.viewport.goHome());

  const scale = () => {
    if (!data.mpp) return;
    const screen = viewer.viewport.getContainerSize().x * viewer.viewport.getZoom(true);
    const micrometres = (data.mpp * width) / screen; // per pixel of the screen
    const most = 160 * micrometres;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((factor) => factor * power <= most) * power;
    const [text, bar] = byId("scale").children;
    text.textContent = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`;
    bar.style.width = `${length / micrometres}px`;
    byId("scale").hidden = false;
  };

  viewer.addHandler("open", () => {
    viewer.canvas.setAttribute("aria-label", "Slide; arrow keys move, plus and minus zoom");
    scale();
    draw();
    follow();
  });
  for (const name of ["animation", "resize", "update-viewport"]) viewer.addHandler(name, scale);
  viewer.addHandler("canvas-key", (event) => {
    if ("rfRF".includes(event.originalEvent.key)) event.preventDefaultAction = true; // no turning
    const { viewport } = viewer;
    setTimeout(() => selectAt(viewport.getCenter(false)), 0);
  });
  follow();
})();
