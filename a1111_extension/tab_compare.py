"""*Compare* of the tab: the picture of the txt2img tab, drawn unaccelerated and accelerated from one seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..core.measure.fidelity import faster, fidelity
from .pages import amber, paragraph, picture
from .status import outcome_of, status
from .table import FIELDS

_BUTTON = "txt2img_generate"


def generate_inputs(inside: Any) -> list[Any]:
    """The components whose values the host's Generate button sends; empty where the button is not found.

    Args:
        inside: a component of the txt2img tab.
    """
    root = inside
    while getattr(root, "parent", None) is not None:
        root = root.parent
    blocks = getattr(root, "blocks", {})
    button = next((made for made in blocks.values() if getattr(made, "elem_id", None) == _BUTTON), None)
    for targets, inputs in _events(root):
        found = [blocks[one] if isinstance(one, int) else one for one in inputs]
        if button is not None and (button._id, "click") in targets and inside in found:
            return found
    return []


def _events(root: Any) -> Iterator[tuple[list[tuple[int, str]], Any]]:
    """What triggers each event, and its inputs: gradio 3 keeps dicts with numbers of components, gradio 4 objects."""
    if isinstance(getattr(root, "fns", None), dict):
        yield from ((event.targets, event.inputs) for event in root.fns.values())
    for event in getattr(root, "dependencies", []):
        yield [(target, event["trigger"]) for target in event["targets"]], event["inputs"]


@dataclass(frozen=True)
class Drawn:
    """A picture.

    Args:
        image: of Pillow.
        seconds: how long it took.
        told: HTML, what was accelerated.
    """

    image: Any
    seconds: float
    told: str


class Comparison:
    """Draws two pictures of one request.

    Args:
        places: of the panel's values among those that the Generate button sends.
    """

    def __init__(self, places: Sequence[int]) -> None:
        """Nothing is drawn."""
        self._places = dict(zip(FIELDS, places, strict=True))

    def __call__(self, *values: Any) -> str:
        """Draw, and return the page.

        Args:
            values: what the Generate button sends.
        """
        return in_a_job(lambda: self._page_or_reason(values))

    def interrupt(self) -> None:
        """Stop the picture under way."""
        _module("shared").state.interrupt()

    def _page_or_reason(self, values: Sequence[Any]) -> str:
        """The page. Whatever the host or another extension raises is one line of it, and goes to the console in full."""
        try:
            return self._page(values)
        except Exception as error:
            _module("errors").report("Skipstone's comparison failed", exc_info=True)
            return amber(f"The comparison failed ({type(error).__name__}: {str(error)[:200]}): see the console")

    def _page(self, values: Sequence[Any]) -> str:
        state = _module("shared").state
        first = self._request(values, on=False)
        _module("processing").fix_seed(first)
        seeds = {"seed": first.seed, "subseed": first.subseed}
        warm = self._request(values, on=False, **seeds, steps=1, hr_second_pass_steps=1)
        drawn = []
        for request in (warm, first, self._request(values, on=True, **seeds)):
            drawn.append(_draw(request))
            if state.interrupted or state.skipped:
                return amber("The comparison was interrupted.")
        return compared(*drawn[1:])

    def _request(self, values: Sequence[Any], on: bool, **changes: Any) -> Any:
        """The host's request for one picture that is not saved, with the panel on or off."""
        given = list(values)
        given[self._places["enabled"]] = on
        request = _module("txt2img").txt2img_create_processing("", SimpleNamespace(username=None), *given[1:])
        alone = {"n_iter": 1, "batch_size": 1, "do_not_save_samples": True, "do_not_save_grid": True}
        for name, value in {**alone, "skipstone_apart": True, **changes}.items():
            setattr(request, name, value)
        return request


def compared(original: Drawn, accelerated: Drawn) -> str:
    """The page: figures, a wipe, and both pictures.

    Args:
        original: without acceleration.
        accelerated: from the same seed.
    """
    if original.image.size != accelerated.image.size:
        return amber("The two pictures have different sizes, so that they cannot be compared.")
    found = fidelity(_tensor(accelerated.image), _tensor(original.image))
    line = found.text() + faster(original.seconds, accelerated.seconds)
    names = (f"original, {original.seconds:.1f} s", f"accelerated, {accelerated.seconds:.1f} s")
    shown = [picture(drawn.image, name) for drawn, name in zip((original, accelerated), names, strict=True)]
    wipe = f"<div class='skipstone-wipe' tabindex='0' title='Move the mouse to wipe'>{''.join(shown)}<i></i></div>"
    pair = "".join(
        f"<figure>{one}<figcaption>{escape(name)}</figcaption></figure>" for one, name in zip(shown, names, strict=True)
    )
    return f"{paragraph(line)}<p>{accelerated.told}</p>{wipe}<div class='skipstone-pair'>{pair}</div>"


def _draw(request: Any) -> Drawn:
    began = time.perf_counter()
    with closing(request):
        done = _module("processing").process_images(request)
    image = done.images[getattr(done, "index_of_first_image", 0)]
    return Drawn(image, time.perf_counter() - began, status(outcome_of(request)))


def _tensor(image: Any) -> torch.Tensor:
    """A Pillow picture as [1, 3, H, W] in 0..1."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0).permute(2, 0, 1)[None]


def in_a_job(work: Callable[[], str]) -> str:
    """Do work as a job of the host: alone, and in the thread in which Forge samples.

    Args:
        work: what to do.
    """
    state = _module("shared").state
    with _module("call_queue").queue_lock:
        state.begin(job="skipstone")
        try:
            forge = _module("main_thread", "modules_forge")
            return forge.run_and_wait_result(work) if forge else work()
        finally:
            state.end()
            state.skipped = state.interrupted = False


def _module(name: str, package: str = "modules") -> Any:
    try:
        return import_module(f"{package}.{name}")
    except ImportError:
        return None
