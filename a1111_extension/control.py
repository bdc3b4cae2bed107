"""Forge's ControlNet runs before the U-Net: here it waits until the U-Net asks for its output, and a skipped call does not.

A1111's ControlNet replaces the U-Net's forward, below the bracket's override, so nothing is needed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any


class LateControl(Mapping[str, Any]):
    """The output of a ControlNet: block group -> list of tensors. It is computed when it is first read."""

    def __init__(self, make: Callable[[], Mapping[str, Any] | None]) -> None:
        """make: runs the ControlNet. It returns None outside of the ControlNet's steps."""
        self._make = make

    @cached_property
    def _made(self) -> Mapping[str, Any]:
        return self._make() or {}

    def __getitem__(self, name: str) -> Any:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class LateControls:
    """Makes the ControlNets of a pass late, until :meth:`remove`."""

    def __init__(self) -> None:
        """None yet."""
        self._late: dict[int, tuple[Any, dict[str, Any]]] = {}

    def add(self, patcher: Any) -> None:
        """Make the ControlNet of Forge's patcher late, once. It runs the others of its list itself."""
        control = getattr(patcher, "controlnet_linked_list", None)
        if control is None or id(control) in self._late:
            return
        get_control, self._late[id(control)] = control.get_control, (control, dict(vars(control)))
        control.get_control = lambda *args: LateControl(lambda: get_control(*args))

    def remove(self) -> None:
        """Put everything back. It may be called twice."""
        for control, before in self._late.values():
            del control.get_control
            if "get_control" in before:
                control.get_control = before["get_control"]
        self._late = {}
