"""What the small flow model draws of captions: the last row of the demo's picture."""

from __future__ import annotations

from PIL import Image

from ..demo_models.captions import caption
from ..demo_models.model import load_demo
from ..demo_models.pictures import CLASSES, Motif
from .sheet import contact_sheet
from .ways import Drawing, Way

STEPS = 20
_COLOURS = (
    "orange on teal", "cream on navy", "pink on blue", "green on navy", "white on teal",
    "red on blue", "lime on purple", "yellow on navy", "brown on blue", "pink on teal",
)  # fmt: skip
MOTIFS = tuple(Motif(name, *words.split(" on ")) for name, words in zip(CLASSES, _COLOURS, strict=True))
"""One of each class; some in colours that the other two models do not draw."""


def flow_sheet(device: str, seed: int, steps: int = STEPS) -> Image.Image:
    """Draw the row.

    Args:
        device: for the model.
        seed: of the noise.
        steps: of the sampler.

    Example:
        >>> flow_sheet("cpu", seed=0, steps=1).size
        (1368, 196)
    """
    captions = [caption(motif) for motif in MOTIFS]
    drawn = Drawing(load_demo("flow", device=device), seed, captions).by(Way("dense", steps))
    title = f'the flow model, dense, {steps} steps  {drawn.seconds:.1f} s  "{captions[0]}", ...'
    return contact_sheet([(title, drawn.pictures)], _COLOURS)
