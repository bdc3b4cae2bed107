"""Doubles of gradio's components, which take only the arguments that 3.41.2 (A1111, reForge) and 4.40.0 (Forge) share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

_FORM = "label info every show_label container scale min_width interactive visible elem_id elem_classes value"
GRADIO_ARGUMENTS = {
    "Slider": f"minimum maximum step randomize {_FORM}",
    "Number": f"precision minimum maximum step {_FORM}",
    "Dropdown": f"choices type multiselect allow_custom_value max_choices {_FORM}",
    "Radio": f"choices type {_FORM}",
    "CheckboxGroup": f"choices type {_FORM}",
    "Checkbox": _FORM,
    "Textbox": f"lines max_lines placeholder autofocus type text_align rtl show_copy_button {_FORM}",
    "HTML": "value label every show_label visible elem_id elem_classes",
    "Button": "value variant size icon link visible interactive elem_id elem_classes scale min_width",
    "UploadButton": "label value variant visible size scale min_width interactive elem_id elem_classes file_count file_types",
    "Tabs": "selected visible elem_id",
    "TabItem": "label id elem_id",
    "Row": "variant visible elem_id equal_height",
    "Column": "scale min_width variant visible elem_id elem_classes",
    "Accordion": "label open visible elem_id",
    "Blocks": "theme analytics_enabled mode title css",
}
_FIRST = {
    "Slider": "minimum maximum value",
    "Accordion": "label",
    "TabItem": "label",
    "UploadButton": "label",
    **dict.fromkeys(("Dropdown", "Radio", "CheckboxGroup"), "choices"),
}
EVENTS = ("change", "input", "click", "load", "upload")
"""HTML has no change here: gradio 4 sends it at every update of the page, so that an answer to it causes the next one."""
EVENT_ARGUMENTS = {"fn", "inputs", "outputs", "api_name", "scroll_to_output", "show_progress", "queue", "every"}


class Component:
    """A gradio component or block: its arguments as attributes, its events as recorded."""

    kind = ""
    made: ClassVar[dict[str, Component]] = {}
    """All that were made, by elem_id or else by kind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = _FIRST.get(self.kind, "value").split()
        assert len(args) <= len(names), f"gr.{self.kind} given {len(args)} arguments by position"
        kwargs |= dict(zip(names, args, strict=False))
        unknown = set(kwargs) - set(GRADIO_ARGUMENTS[self.kind].split())
        assert not unknown, f"gr.{self.kind} has no argument {unknown} in both gradio versions"
        self.value = self.elem_id = self.label = self.choices = None
        self.__dict__.update(kwargs)
        self.made[self.elem_id or self.kind] = self
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for name in EVENTS[self.kind == "HTML" :]:
            setattr(self, name, self._recorder(name))

    def _recorder(self, name: str) -> Callable[..., None]:
        def record(**kwargs: Any) -> None:
            assert set(kwargs) <= EVENT_ARGUMENTS and kwargs.get("show_progress", "full") in (
                "full",
                "minimal",
                "hidden",
            )
            self.events[name].append(kwargs)

        return record

    def fire(self, name: str, *values: Any) -> Any:
        """What the page would: call the functions of an event, and return what the last one gave."""
        for event in self.events[name]:
            assert len(values) == len(event["inputs"])
            result = event["fn"](*values)
            assert len(event["outputs"]) in (1, len(result) if isinstance(result, (list, tuple)) else 1)
        return result

    def set(self, value: Any, event: str = "input") -> None:
        """What a user does at the page: the value changes, and the event's functions get and set the components' values."""
        self.value = value
        self.act(event)

    def act(self, name: str) -> None:
        """An event, with the present values of its inputs; its outputs take theirs."""
        for event in self.events[name]:
            result = event["fn"](*(component.value for component in event["inputs"]))
            results = [result] if len(event["outputs"]) == 1 else result
            for component, value in zip(event["outputs"], results, strict=True):
                changed = value if isinstance(value, dict) and "__type__" in value else {"value": value}
                component.__dict__.update({name: new for name, new in changed.items() if name != "__type__"})

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *error: Any) -> None:
        return None
