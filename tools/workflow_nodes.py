"""What a workflow is made of: nodes of known classes, and their links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a node class has.

    Args:
        sockets: name -> type.
        widgets: name -> type, in order.
        outputs: types.
        title: on the node.
    """

    sockets: Mapping[str, str]
    widgets: Mapping[str, str]
    outputs: Sequence[str]
    title: str


@dataclass(frozen=True)
class Node:
    """A node of a workflow.

    Args:
        kind: its class.
        at: its place, left and top.
        size: width and height.
        values: of its widgets; fewer than there are where the others are optional.
        links: socket -> (number of a node, number of its output).
        title: in place of the class's own.
        files: (name, folder, address) of models that it loads.
    """

    kind: str
    at: tuple[int, int]
    size: tuple[int, int]
    values: tuple[Any, ...] = ()
    links: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    title: str = ""
    files: tuple[tuple[str, str, str], ...] = ()


Workflow = Mapping[int, Node]
"""Number of each node -> the node."""
