// All nodes of the workflow that is open, those inside subgraphs too. Older pages call an extension's loadedGraphNode for the nodes of
// the outermost graph alone, so what happens after loading is done in afterConfigureGraph with this list.
import { app } from "../../scripts/app.js";

export function nodesIn(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [...nodesIn(node.subgraph), node]);
}

export function rootGraph() {
  return app.graph?.rootGraph ?? app.graph;
}

export function allNodes() {
  return nodesIn(rootGraph());
}
