// Keeps what nodes show until the browser tab is closed, so that it survives a reload of the page. Nothing goes into the workflow.
// A workflow that was never saved has no id of its own before the page is loaded again.
const NEW = "00000000-0000-0000-0000-000000000000";

function key(node, name, graph = node.graph?.id ?? NEW) {
  return `skipstone:${name}:${graph}:${node.type}:${node.id}`;
}

export function keep(node, name, value) {
  try {
    sessionStorage.setItem(key(node, name), JSON.stringify(value));
  } catch {
    // a full or forbidden storage: the text is gone after a reload
  }
}

export function kept(node, name) {
  const own = key(node, name);
  const first = key(node, name, NEW);
  try {
    const found = sessionStorage.getItem(own) ?? sessionStorage.getItem(first);
    sessionStorage.removeItem(first);
    if (found) sessionStorage.setItem(own, found);
    return JSON.parse(found ?? "null");
  } catch {
    return null;
  }
}
