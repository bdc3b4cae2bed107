// Looks at ComfyUI's page for comfy_page.py, in both of its renderers: window.look. Ids are those of the graph in view.
const REPORT = "$$node-text-preview";
const NEAR = 3; // pixels

const squeezed = (text) => text.replace(/\s+/g, "");
const within = (x, y, box) => x >= box.left - NEAR && x <= box.right + NEAR && y >= box.top - NEAR && y <= box.bottom + NEAR;

window.look = {
  node: (id) => app.canvas.graph.getNodeById(id),
  isVue: () => Boolean(LiteGraph.vueNodesMode),
  element: (id) => document.querySelector(`.lg-node[data-node-id="${id}"]`),
  settled: () => !look.isVue() || app.canvas.graph.nodes.every((node) => look.element(node.id)),
  visible: (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }),
  widgets: (id) => (look.node(id).widgets ?? []).filter((widget) => widget.name !== REPORT),

  // Of a node, on the screen.
  box(id) {
    if (look.isVue()) return look.element(id).getBoundingClientRect();
    const { ds, canvas } = app.canvas;
    const { pos, size } = look.node(id);
    const corner = canvas.getBoundingClientRect();
    const title = LiteGraph.NODE_TITLE_HEIGHT;
    const left = corner.left + (pos[0] + ds.offset[0]) * ds.scale;
    const top = corner.top + (pos[1] + ds.offset[1] - title) * ds.scale;
    return { left, top, right: left + size[0] * ds.scale, bottom: top + (size[1] + title) * ds.scale };
  },

  // Elements that stand on a node.
  parts(id) {
    if (look.isVue()) return [look.element(id)];
    const box = look.box(id);
    return [...document.querySelectorAll(".dom-widget")].filter((part) => {
      const { left, right, top, bottom, width } = part.getBoundingClientRect();
      return width && within((left + right) / 2, (top + bottom) / 2, box);
    });
  },

  // Whether none of an element's ancestors cuts off a point.
  inside(element, x, y) {
    for (let part = element; part && part !== document.body; part = part.parentElement) {
      const { overflowX, overflowY } = getComputedStyle(part);
      if (`${overflowX} ${overflowY}` !== "visible visible" && !within(x, y, part.getBoundingClientRect())) return false;
    }
    return true;
  },

  // Characters of an element that have a place on the screen: [text node, character, place, whether it is cut off].
  characters(element) {
    const found = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
      for (let at = 0; at < text.length; at++) {
        range.setStart(text, at);
        range.setEnd(text, at + 1);
        const box = range.getClientRects()[0];
        if (!box?.width) continue;
        const inside = look.inside(text.parentElement, (box.left + box.right) / 2, (box.top + box.bottom) / 2);
        found.push([text, text.data[at], box, !inside]);
      }
    }
    return found;
  },

  // The text of an element in the lines in which it stands on the screen; with `apart`, those of each of its parts.
  broken(element, apart = false) {
    const lines = [];
    for (const [of, character, { top }, isCut] of look.characters(element)) {
      if (isCut) continue;
      const last = lines.at(-1);
      if (!last || Math.abs(last.top - top) > NEAR || (apart && last.of !== of)) lines.push({ top, of, text: "" });
      lines.at(-1).text += character;
    }
    return lines.map((line) => line.text.replace(/\s+/g, " ").trim()).filter(Boolean);
  },

  // Pairs of nodes that lie on each other, by their titles.
  overlaps() {
    const shrunk = ({ left, top, right, bottom }) => [left + NEAR, top + NEAR, right - NEAR, bottom - NEAR];
    const boxes = app.canvas.graph.nodes.map((node) => [node.title, shrunk(look.box(node.id))]);
    const meet = ([l, t, r, b], [left, top, right, bottom]) => l < right && left < r && t < bottom && top < b;
    return boxes.flatMap(([one, box], at) =>
      boxes.slice(at + 1).flatMap(([other, next]) => (meet(box, next) ? [[one, other]] : []))
    );
  },

  // Texts on a node that the user does not see as a whole.
  cut(id) {
    const box = look.box(id);
    const shortened = ([text, x, y]) => text.includes("\u2026") && within(x, y, box);
    const canvas = look.isVue() ? [] : look.written().filter(shortened).map(([text]) => text);
    const parts = look.parts(id);
    const characters = parts.flatMap(look.characters).filter(([of, character, , isCut]) => isCut && character.trim());
    const areas = parts.flatMap((part) => [...part.querySelectorAll("textarea")]).filter(look.visible);
    const long = areas.filter((area) => area.scrollHeight > area.clientHeight + NEAR);
    return [...canvas, ...new Set(characters.map(([of]) => of.data)), ...long.map((area) => area.value)];
  },

  report: (id) => look.node(id)?.widgets?.find((widget) => widget.name === REPORT)?.value ?? "",

  // The report on a node, as the user sees it.
  lines(id) {
    const report = look.report(id);
    if (!report) return [];
    const holds = (part) => squeezed(part.textContent) === squeezed(report);
    const found = look.parts(id).flatMap((part) => [part, ...part.querySelectorAll("*")].filter(holds));
    return found.length ? look.broken(found.at(-1)) : [];
  },

  // The same, once there is a line like this and none of its text is cut off.
  says(id, pattern) {
    const lines = look.lines(id);
    const isWhole = squeezed(lines.join("")) === squeezed(look.report(id));
    return isWhole && lines.some((line) => new RegExp(pattern).test(line)) && lines;
  },

  // What the classic canvas writes: [text, x, y] on the screen.
  written() {
    const found = [];
    const prototype = CanvasRenderingContext2D.prototype;
    const { fillText } = prototype;
    const corner = app.canvas.canvas.getBoundingClientRect();
    prototype.fillText = function (text, x, y, ...rest) {
      const at = this.getTransform().transformPoint(new DOMPoint(x, y));
      found.push([String(text), corner.left + at.x, corner.top + at.y]);
      return fillText.call(this, text, x, y, ...rest);
    };
    try {
      app.canvas.draw(true, true);
    } finally {
      prototype.fillText = fillText;
    }
    return found;
  },

  // All that the user reads on a node: labels, values, notes, report.
  texts(id) {
    const parts = look.parts(id).flatMap((part) => [
      ...look.broken(part, true),
      ...[...part.querySelectorAll("textarea, input")].filter(look.visible).flatMap((box) => box.value.split("\n")),
    ]);
    const box = look.box(id);
    const canvas = look.isVue() ? [] : look.written().filter(([, x, y]) => within(x, y, box)).map(([text]) => text);
    return [...canvas, ...parts];
  },

  // Names of the widgets that the user sees on a node.
  labels(id) {
    const texts = look.texts(id);
    return look.widgets(id).filter((widget) => texts.includes(widget.label ?? widget.name)).map((widget) => widget.name);
  },

  // Where to click on a widget that offers a choice.
  place(id, name) {
    const widget = look.widgets(id).find((one) => one.name === name);
    const middle = ({ left, top, width, height }) => [left + width / 2, top + height / 2];
    if (look.isVue()) {
      const label = widget.label ?? widget.name;
      return middle(look.element(id).querySelector(`[role=combobox][aria-label="${label}"]`).getBoundingClientRect());
    }
    const { left, top, right } = look.box(id);
    const { scale } = app.canvas.ds;
    const height = (LiteGraph.NODE_TITLE_HEIGHT + widget.y + LiteGraph.NODE_WIDGET_HEIGHT / 2) * scale;
    return [(left + right) / 2, top + height];
  },

  // Widgets whose value is not among their options: [name, value].
  wrong(id) {
    const options = (widget) => [widget.options?.values ?? [widget.value]].flatMap((all) => (typeof all === "function" ? all() : all));
    const lists = look.widgets(id).filter((widget) => widget.type === "combo");
    return lists.filter((widget) => !options(widget).includes(widget.value)).map((widget) => [widget.name, widget.value]);
  },

  // Whether a node shows a picture that has arrived.
  picture(id) {
    const images = look.isVue() ? [...look.element(id).querySelectorAll("img")] : look.node(id).imgs ?? [];
    return images.some((image) => image.complete && image.naturalWidth);
  },

  // The addresses of the two pictures that the wipe of a node shows.
  pair: (id) => look.node(id).skipstoneWipe.images.map((image) => new URL(image.src).searchParams.get("filename")),

  wipe(id) {
    const { left, top, right, bottom } = look.node(id).skipstoneWipe.box.getBoundingClientRect();
    return [left, top, right, bottom];
  },

  // Percent of the left picture that the wipe shows.
  wiped: (id) => Number(look.node(id).skipstoneWipe.images[1].style.clipPath.match(/([\d.]+)%/)[1]),

  set(id, values) {
    for (const [name, value] of Object.entries(values)) {
      const widget = look.widgets(id).find((one) => one.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
  },

  // Puts nodes into a subgraph, whose node's id it returns.
  pack(ids) {
    return app.canvas.graph.convertToSubgraph(new Set(ids.map(look.node))).node.id;
  },

  // Opens a subgraph; the id of its first node.
  open(id) {
    const node = look.node(id);
    app.canvas.openSubgraph(node.subgraph, node);
    return node.subgraph.nodes[0].id;
  },

  async queue() {
    let answer = "";
    const { queuePrompt } = app.api;
    app.api.queuePrompt = async function (...given) {
      const queued = await queuePrompt.apply(this, given);
      answer = queued.prompt_id;
      return queued;
    };
    try {
      await app.queuePrompt(0, 1);
    } finally {
      app.api.queuePrompt = queuePrompt;
    }
    return answer;
  },

  select(ids) {
    const nodes = ids.map(look.node);
    app.canvas.deselectAll();
    app.canvas.selectItems(nodes);
    app.canvas.canvas.focus();
  },

  // Brings the whole graph into view.
  fit() {
    const boxes = app.canvas.graph.nodes.map((node) => node.boundingRect);
    const [left, top] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
    const [right, bottom] = [0, 1].map((side) => Math.max(...boxes.map((box) => box[side] + box[side + 2])));
    const { clientWidth, clientHeight } = app.canvas.canvas;
    const scale = Math.min(1, (clientWidth - 120) / (right - left), (clientHeight - 120) / (bottom - top));
    look.view(left - 80 / scale, top - 80 / scale, scale);
  },

  view(left, top, scale = 1) {
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = -left;
    app.canvas.ds.offset[1] = -top;
    app.canvas.setDirty(true, true);
  },
};
