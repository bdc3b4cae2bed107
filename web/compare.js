// The wipe of the node Compare Pictures: the original to the left of the mouse, the accelerated picture to the right. A click
// shows the next pair of a batch. The pair and its figures survive a reload of the page.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes } from "./graph.js";
import { keep, kept } from "./kept.js";

const KEYS = ["skipstone_original", "skipstone_accelerated"];
const NAMES = ["original", "accelerated"];
const MIN_SIDE = 280;
const SMALL = 256; // pixels; pictures of fewer are shown with hard edges
const TAG = "position:absolute; padding:1px 6px; border-radius:6px; background:#000a; color:#fff; font:12px sans-serif; pointer-events:none;";

function element(parent, kind, style, text = "") {
  const made = document.createElement(kind);
  made.style.cssText = style;
  made.textContent = text;
  parent.append(made);
  return made;
}

class Wipe {
  constructor() {
    const fill = "position:absolute; inset:0; width:100%; height:100%; object-fit:contain; pointer-events:none; visibility:hidden;";
    this.box = document.createElement("div");
    this.box.style.cssText = "position:relative; width:100%; height:100%; overflow:hidden; border-radius:6px; background:#0004; cursor:ew-resize; user-select:none;";
    this.images = KEYS.map(() => element(this.box, "img", fill));
    this.line = element(this.box, "div", "position:absolute; top:0; bottom:0; width:2px; background:#fff; pointer-events:none;");
    this.names = ["left", "right"].map((side) => element(this.box, "div", `${TAG} ${side}:6px; top:6px;`));
    this.figures = element(this.box, "div", `${TAG} left:6px; bottom:6px;`);
    this.place = element(this.box, "div", `${TAG} right:6px; bottom:6px;`);
    for (const image of this.images) {
      image.draggable = false;
      image.onload = () => {
        image.style.visibility = "visible";
        image.style.imageRendering = image.naturalWidth <= SMALL ? "pixelated" : "auto";
      };
      image.onerror = () => (image.style.visibility = "hidden");
    }
    this.box.addEventListener("pointermove", (event) => {
      const { left, width } = this.box.getBoundingClientRect();
      this.wipe((event.clientX - left) / width);
    });
    this.box.addEventListener("click", () => this.show(this.index + 1));
    this.wipe(0.5);
    this.set({});
  }

  wipe(share) {
    const percent = 100 * Math.min(1, Math.max(0, share));
    this.images[1].style.clipPath = `inset(0 0 0 ${percent}%)`;
    this.line.style.left = `calc(${percent}% - 1px)`;
  }

  // The names of the two inputs, in the page's language.
  name(inputs) {
    this.names.forEach((tag, side) => {
      const input = inputs?.find((one) => one.name === NAMES[side]);
      tag.textContent = input?.label ?? input?.localized_name ?? NAMES[side];
    });
  }

  set(files) {
    this.files = KEYS.map((key) => files[key] ?? []);
    this.figures.textContent = files.text?.[0] ?? "run to compare";
    this.show(0);
  }

  show(index) {
    const count = this.files[0].length;
    this.index = count ? index % count : 0;
    this.line.hidden = !count;
    this.place.textContent = `${this.index + 1} / ${count}`;
    this.place.hidden = count < 2;
    this.images.forEach((image, side) => {
      const file = this.files[side][this.index];
      if (file) image.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
      else image.style.visibility = "hidden";
    });
  }
}

function extend(type, name, added) {
  const before = type.prototype[name];
  type.prototype[name] = function (...args) {
    const answer = before?.apply(this, args);
    added.apply(this, args);
    return answer;
  };
}

app.registerExtension({
  name: "Skipstone.Compare",
  beforeRegisterNodeDef(type, definition) {
    if (definition.name !== "SkipstoneCompare") return;
    extend(type, "onNodeCreated", function () {
      this.skipstoneWipe = new Wipe();
      this.skipstoneWipe.name(this.inputs);
      const options = { serialize: false, hideOnZoom: false, getMinHeight: () => MIN_SIDE };
      const widget = this.addDOMWidget("wipe", "skipstone_wipe", this.skipstoneWipe.box, options);
      widget.serialize = false;
      this.setSize([Math.max(this.size[0], 340), Math.max(this.size[1], 460)]);
    });
    extend(type, "onExecuted", function (output) {
      if (!output?.[KEYS[0]]) return;
      const shown = Object.fromEntries([...KEYS, "text"].map((key) => [key, output[key]]));
      keep(this, "compare", shown);
      this.skipstoneWipe?.name(this.inputs);
      this.skipstoneWipe?.set(shown);
    });
  },
  afterConfigureGraph() {
    for (const node of allNodes().filter((one) => one.skipstoneWipe)) {
      node.skipstoneWipe.name(node.inputs);
      node.skipstoneWipe.set(kept(node, "compare") ?? {});
    }
  },
});
