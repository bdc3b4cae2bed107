"""Doubles of ComfyUI's V3 schema classes (`comfy_api.latest.io`): only the arguments that v0.3.64 and 0.33 both take."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

Options = dict[str, Any]


@dataclass
class Input:
    """Any input: an id, and only the arguments that both versions know."""

    id: str
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: Any = field(default_factory=dict, init=False)

    def as_dict(self) -> Options:
        """What the page gets."""
        own = {k: v for k, v in self.__dict__.items() if k not in ("id", "extra_dict") and v is not None}
        return {**own, **self.extra_dict}


@dataclass
class FloatInput(Input):
    """`io.Float.Input`."""

    default: Any = None
    min: Any = None
    max: Any = None
    step: Any = None
    round: Any = None
    display_mode: Any = None
    socketless: bool | None = None
    force_input: bool | None = None


class IntInput(FloatInput):
    """`io.Int.Input`, which takes the same."""


@dataclass
class ComboInput(Input):
    """`io.Combo.Input`."""

    options: list[str] = field(default_factory=list)
    default: Any = None


@dataclass
class StringInput(Input):
    """`io.String.Input`."""

    multiline: bool = False
    placeholder: str | None = None
    default: str | None = None


@dataclass
class BooleanInput(Input):
    """`io.Boolean.Input`."""

    default: bool | None = None
    label_on: str | None = None
    label_off: str | None = None


@dataclass
class Output:
    """Any output."""

    io_type = ""
    id: str | None = None
    display_name: str | None = None
    tooltip: str | None = None


@dataclass
class Schema:
    """`io.Schema` of v0.3.64."""

    node_id: str
    display_name: str
    category: str
    description: str = ""
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    is_output_node: bool = False
    not_idempotent: bool = False
    is_experimental: bool = False


class ComfyNode:
    """`io.ComfyNode`. The host puts the hidden inputs on a clone of the class before `execute`."""

    hidden: Any = None

    @classmethod
    def run(cls, node_id: str, **inputs: Any) -> Any:
        """As the host executes a node: the first output."""
        output = cls.ran(node_id, **inputs)
        return output.args[0] if output.args else None

    @classmethod
    def ran(cls, node_id: str, **inputs: Any) -> Any:
        """The same, with all outputs and what the page gets."""
        return type(cls.__name__, (cls,), {"hidden": SimpleNamespace(unique_id=node_id)}).execute(**inputs)


class NodeOutput:
    """`io.NodeOutput`."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class FolderType(str, Enum):
    """`io.FolderType`."""

    temp = "temp"


class ImageSaveHelper:
    """`ui.ImageSaveHelper`: names files and writes none."""

    @staticmethod
    def save_images(images: Any, filename_prefix: str, folder_type: FolderType, cls: Any) -> list[Options]:
        """One PNG per picture."""
        names = [f"{filename_prefix}_{place:05}_.png" for place in range(len(images))]
        return [{"filename": name, "subfolder": "", "type": folder_type.value} for name in names]


UI = SimpleNamespace(ImageSaveHelper=ImageSaveHelper)
"""`comfy_api.latest.ui`."""


class NumberDisplay(str, Enum):
    """`io.NumberDisplay`."""

    number = "number"
    slider = "slider"


def _kind(given: Any, io_type: str = "") -> SimpleNamespace:
    return SimpleNamespace(Input=given, Output=type("Output", (Output,), {"io_type": io_type}))


IO = SimpleNamespace(
    Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput, NumberDisplay=NumberDisplay, Model=_kind(Input, "MODEL"),
    Float=_kind(FloatInput, "FLOAT"), Int=_kind(IntInput), Combo=_kind(ComboInput), String=_kind(StringInput, "STRING"),
    Boolean=_kind(BooleanInput), Hidden=SimpleNamespace(unique_id="UNIQUE_ID"), Image=_kind(Input, "IMAGE"),
    Conditioning=_kind(Input), Latent=_kind(Input, "LATENT"), Clip=_kind(Input, "CLIP"), Vae=_kind(Input, "VAE"),
    FolderType=FolderType, AnyType=_kind(Input, "*"), Custom=lambda io_type: _kind(Input, io_type),
)  # fmt: skip
"""The module's names that nodes use."""
