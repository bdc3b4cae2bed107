// A Skipstone node grows to the height that its report needs. Without this file ComfyUI shows the report's first two lines.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const LINE_HEIGHT = 17;
const MARGIN = 24;
const REPORT_WIDGET = "$$node-text-preview";

function fitReport(node, text) {
  const widget = node.widgets?.find((w) => w.name === REPORT_WIDGET);
  if (!widget?.y) return;
  const height = widget.y + text.split("\n").length * LINE_HEIGHT + MARGIN;
  if (height > node.size[1]) node.setSize([node.size[0], height]);
  node.setDirtyCanvas(true, true);
}

app.registerExtension({
  name: "Skipstone.Report",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => {
      const node = app.graph.getNodeById(Number(detail.nodeId)) ?? app.graph.getNodeById(detail.nodeId);
      if (node?.comfyClass?.startsWith("Skipstone")) setTimeout(() => fitReport(node, detail.text), 100);
    });
  },
});
