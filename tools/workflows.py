"""Writes the workflows that differ in their model alone, each as a graph of the page and as a prompt of the API.

`python -m skipstone.tools.workflows` writes `workflows/NAME.json` and `workflows/api/NAME.json` for each name in
:data:`skipstone.tools.workflow_list.WORKFLOWS`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .node_texts import comfyui, schemas_of
from .workflow_core import CORE
from .workflow_list import WORKFLOWS
from .workflow_nodes import Kind, Node, Workflow

ROOT = Path(__file__).resolve().parents[1]
_HIDDEN = {"seed": "fixed"}
"""Widget -> value of the page's own widget behind it."""


def api(workflow: Workflow, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """A workflow as a prompt of the API.

    Args:
        workflow: its nodes.
        kinds: of all node classes.
    """
    return {str(number): _entry(node, kinds[node.kind]) for number, node in workflow.items() if "Note" not in node.kind}


def _entry(node: Node, kind: Kind) -> dict[str, Any]:
    values = dict(zip(kind.widgets, node.values, strict=False))
    links = {socket: [str(number), slot] for socket, (number, slot) in node.links.items()}
    return {"class_type": node.kind, "inputs": {**values, **links}, "_meta": {"title": node.title or kind.title}}


def page(name: str, workflow: Workflow, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """A workflow as a graph of the page.

    Args:
        name: from which its id is made.
        workflow: its nodes.
        kinds: of all node classes.
    """
    links = [
        [
            place,
            source,
            slot,
            number,
            [*kinds[node.kind].sockets, *kinds[node.kind].widgets].index(socket),
            kinds[workflow[source].kind].outputs[slot],
        ]
        for place, (number, node, socket, source, slot) in enumerate(_links(workflow), 11)
    ]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"skipstone/{name}")),
        "revision": 0,
        "last_node_id": max(workflow),
        "last_link_id": 10 + len(links),
        "nodes": [_drawn(number, node, kinds[node.kind], order, links) for order, (number, node) in enumerate(workflow.items())],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {"ds": {"scale": 0.8, "offset": [200, 150]}},
        "version": 0.4,
    }  # fmt: skip


def _links(workflow: Workflow) -> list[tuple[int, Node, str, int, int]]:
    return [(n, node, socket, *source) for n, node in workflow.items() for socket, source in node.links.items()]


def _drawn(number: int, node: Node, kind: Kind, order: int, links: Sequence[list[Any]]) -> dict[str, Any]:
    into = {link[4]: link[0] for link in links if link[3] == number}
    sockets = [
        {"localized_name": name, "name": name, "type": of, "link": into.get(place)}
        for place, (name, of) in enumerate(kind.sockets.items())
    ]
    widgets = [
        {"localized_name": name, "name": name, "type": of, "widget": {"name": name}, "link": into.get(place)}
        for place, (name, of) in enumerate(list(kind.widgets.items())[: len(node.values)], len(kind.sockets))
        if "Note" not in node.kind
    ]
    outputs = [
        {
            "localized_name": of,
            "name": of,
            "type": of,
            "links": [k[0] for k in links if k[1] == number and k[2] == slot],
        }
        for slot, of in enumerate(kind.outputs)
    ]
    files = [{"name": name, "url": address, "directory": folder} for name, folder, address in node.files]
    drawn = {
        "id": number,
        "type": node.kind,
        "pos": list(node.at),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [*sockets, *widgets],
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind, **({"models": files} if files else {})},
        "widgets_values": _shown(node, kind),
    }
    colours = {"color": "#432", "bgcolor": "#653"} if "Note" in node.kind else {}
    return {**drawn, **({"title": node.title} if node.title else {}), **colours}


def _shown(node: Node, kind: Kind) -> list[Any]:
    """The widgets' values, with those of the page's own widgets."""
    pairs = zip(kind.widgets, node.values, strict=False)
    return [value for name, own in pairs for value in (own, *([_HIDDEN[name]] if name in _HIDDEN else []))]


def written(workflows: Mapping[str, Workflow], kinds: Mapping[str, Kind]) -> dict[Path, str]:
    """Files of workflows, and their texts.

    Args:
        workflows: by name.
        kinds: of all node classes.
    """
    folder = ROOT / "workflows"
    pages = {folder / f"{name}.json": page(name, workflow, kinds) for name, workflow in workflows.items()}
    prompts = {folder / f"api/{name}.json": api(workflow, kinds) for name, workflow in workflows.items()}
    return {path: json.dumps(made, indent=1, ensure_ascii=False) + "\n" for path, made in {**pages, **prompts}.items()}


def kinds_of(schemas: Sequence[Any]) -> dict[str, Kind]:
    """What Skipstone's nodes have, by their schemas.

    Args:
        schemas: made with the doubles of the tests, whose inputs know whether they are widgets.
    """
    return {schema.node_id: _kind(schema) for schema in schemas}


def _kind(schema: Any) -> Kind:
    widgets = {
        one.id: type(one).__name__.removesuffix("Input").upper() for one in schema.inputs if hasattr(one, "default")
    }
    types = {"model": "MODEL", "mask": "SKIPSTONE_MASK", "recipe": "SKIPSTONE_RECIPE", "after": "*"}
    sockets = {one.id: types.get(one.id, "IMAGE") for one in schema.inputs if one.id not in widgets}
    return Kind(sockets, widgets, [one.io_type for one in schema.outputs], schema.display_name)


def main() -> None:
    """Write the files."""
    with comfyui():
        from ..nodes import SkipstoneExtension

        kinds = {**CORE, **kinds_of(schemas_of(SkipstoneExtension()))}
        for path, text in written(WORKFLOWS, kinds).items():
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
