// Shows a widget only while another one is set to the option that uses it, such as a list while "custom" is chosen. The nodes'
// schemas say which: `skipstone_shown_when` is [the other widget's name, the option].
import { app } from "../../scripts/app.js";
import { allNodes } from "./graph.js";

const RULE = "skipstone_shown_when";

function rulesOf(definition) {
  const inputs = { ...definition?.input?.required, ...definition?.input?.optional };
  return Object.entries(inputs).flatMap(([name, [, options]]) => (options?.[RULE] ? [[name, ...options[RULE]]] : []));
}

function isLinked(node, name) {
  return node.inputs?.some((input) => input.widget?.name === name && input.link != null);
}

function update(node, rules) {
  const widget = (name) => node.widgets?.find((one) => one.name === name);
  let changed = false;
  for (const [name, other, option] of rules) {
    const [shown, chooser] = [widget(name), widget(other)];
    if (!shown || !chooser) continue;
    const hidden = chooser.value !== option && !isLinked(node, name);
    if (Boolean(shown.hidden) === hidden) continue;
    shown.hidden = hidden; // classic canvas
    for (const options of [shown.options, shown._state?.options]) if (options) options.hidden = hidden; // Nodes 2.0
    changed = true;
  }
  if (!changed) return;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
  node.setDirtyCanvas(true, true);
}

function watch(node, rules) {
  for (const name of new Set(rules.map(([, other]) => other))) {
    const chooser = node.widgets?.find((one) => one.name === name);
    if (!chooser) continue;
    const before = chooser.callback;
    chooser.callback = function (...args) {
      const answer = before?.apply(this, args);
      update(node, rules);
      return answer;
    };
  }
  update(node, rules);
}

app.registerExtension({
  name: "Skipstone.Custom",
  nodeCreated(node) {
    const rules = rulesOf(node.constructor?.nodeData);
    if (rules.length) watch(node, rules);
  },
  afterConfigureGraph() {
    for (const node of allNodes()) {
      const rules = rulesOf(node.constructor?.nodeData);
      if (rules.length) update(node, rules);
    }
  },
});
