// Skipstone's reports on its nodes. A node grows to the height that its report needs; without this file ComfyUI shows the
// report's first two lines. ComfyUI shows a text only on nodes that are in view, so a report from inside a subgraph is also
// shown on the subgraph's node, and again when the subgraph is opened. Reports survive a reload of the page.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, nodesIn, rootGraph } from "./graph.js";
import { keep, kept } from "./kept.js";

const LINE_HEIGHT = 17;
const MARGIN = 24;
const MIN_WIDTH = 280;
const PLOTTED = "SkipstoneReport";
const PLOT_SIZE = [480, 300];
const REPORT_WIDGET = "$$node-text-preview";
const reports = new WeakMap(); // node -> { id, text }; an id is a path such as "12:34", node 34 in subgraph node 12

function findNode(id) {
  let graph = rootGraph();
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

function isOurs(node) {
  return (node?.comfyClass ?? node?.type)?.startsWith?.("Skipstone");
}

function reportsIn(graph) {
  return nodesIn(graph).flatMap((node) => reports.get(node) ?? []);
}

function inView(node) {
  return node && node.graph === app.canvas?.graph;
}

// ComfyUI looks for an id without a path among the nodes in view.
function show(node, text) {
  const detail = { nodeId: String(node.id), text, shownOn: node };
  api.dispatchEvent(new CustomEvent("progress_text", { detail }));
}

function fitReport(node, text) {
  const widget = node.widgets?.find((w) => w.name === REPORT_WIDGET);
  if (!widget?.y) return;
  const width = Math.max(node.size[0], MIN_WIDTH);
  const height = Math.max(node.size[1], widget.y + text.split("\n").length * LINE_HEIGHT + MARGIN);
  if (width > node.size[0] || height > node.size[1]) node.setSize([width, height]);
  node.setDirtyCanvas(true, true);
}

function showOutside(id) {
  const parts = String(id).split(":");
  for (let length = 1; length < parts.length; length++) {
    const node = findNode(parts.slice(0, length).join(":"));
    if (!inView(node)) continue;
    show(node, [...new Set(reportsIn(node.subgraph).map((report) => report.text))].join("  \n"));
  }
}

function onText({ detail }) {
  const { nodeId, text, shownOn } = detail;
  const node = shownOn ?? findNode(nodeId);
  if (!shownOn && !isOurs(node)) return;
  setTimeout(() => fitReport(node, text), 100);
  if (!shownOn && node) keep(node, "report", { id: String(nodeId), text });
  if (shownOn || !String(nodeId).includes(":")) return;
  reports.set(node, { id: String(nodeId), text });
  if (inView(node)) show(node, text);
  showOutside(nodeId);
}

// After a reload of the page.
function onLoaded(node) {
  if (node.comfyClass === PLOTTED) setTimeout(() => showPlot(node), 500);
  const report = isOurs(node) && kept(node, "report");
  if (!report) return;
  if (report.id.includes(":")) reports.set(node, report);
  setTimeout(() => (inView(node) ? show(node, report.text) : showOutside(report.id)), 500);
}

// The plot of Run Report: a file of the server's, which it deletes when it starts again.
async function showPlot(node) {
  const output = kept(node, "plot");
  if (!output || !inView(node)) return;
  const file = await api.fetchApi(`/view?${new URLSearchParams(output.images[0])}`, { method: "HEAD" });
  const detail = { node: String(node.id), display_node: String(node.id), output };
  if (file.ok) api.dispatchEvent(new CustomEvent("executed", { detail }));
}

function onExecuted({ detail }) {
  const node = findNode(detail?.display_node ?? detail?.node);
  if (node?.comfyClass === PLOTTED && detail.output?.images) keep(node, "plot", { images: detail.output.images });
}

function onGraphOpened() {
  for (const node of app.canvas?.graph?.nodes ?? []) {
    if (reports.has(node)) show(node, reports.get(node).text);
    const [inner] = node.subgraph ? reportsIn(node.subgraph) : [];
    if (inner) showOutside(inner.id);
  }
}

app.registerExtension({
  name: "Skipstone.Report",
  afterConfigureGraph() {
    allNodes().forEach(onLoaded);
  },
  nodeCreated(node) {
    if (node.comfyClass === PLOTTED) node.setSize(PLOT_SIZE);
  },
  setup() {
    api.addEventListener("progress_text", onText);
    api.addEventListener("executed", onExecuted);
    app.canvas?.canvas?.addEventListener("litegraph:set-graph", () => setTimeout(onGraphOpened, 100));
  },
});
