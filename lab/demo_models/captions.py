"""Captions of the drawn pictures: "a red heart on a blue background", and shorter ones."""

from __future__ import annotations

import numpy as np
import torch

from .pictures import BACKGROUNDS, CLASSES, COLOURS, Motif, as_tensor, draw_motif, one_of, random_motif, random_pose

USUAL_SHARE = 0.5
"""Share of pictures in a usual colour of their class; the others come in any colour."""
SAID = 0.75
"""Share of captions that have an article, a colour, a background, or the word "background"."""


def caption(motif: Motif) -> str:
    """The full caption of a picture.

    Args:
        motif: what it shows.

    Example:
        >>> caption(Motif("sun", "orange", "teal"))
        'an orange sun on a teal background'
    """
    return f"{_with_article(f'{motif.colour} {motif.name}')} on {_with_article(motif.background)} background"


def random_caption(motif: Motif, rng: np.random.Generator) -> str:
    """A caption that may leave something out. It leaves out a colour only if it is a usual one, as people do.

    Args:
        motif: what the picture shows.
        rng: chooses.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> [random_caption(Motif("heart", "red", "blue"), rng) for _ in range(3)]
        ['a heart on blue', 'a red heart', 'a red heart']
    """
    articles, coloured, placed, whole = rng.random(4) < SAID
    thing = f"{motif.colour} {motif.name}" if coloured or not motif.usual else motif.name
    thing = _with_article(thing) if articles else thing
    if not placed:
        return thing
    background = f"{motif.background} background" if whole else motif.background
    return f"{thing} on {_with_article(background) if articles and whole else background}"


def draw_captioned(count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Draw pictures with captions; the classes take turns.

    Args:
        count: of pictures.
        seed: of places, sizes, colours and captions.

    Returns pictures uint8 [count, 3, 64, 64] and captions.

    Example:
        >>> pictures, captions = draw_captioned(2, seed=0)
        >>> pictures.shape, captions
        (torch.Size([2, 3, 64, 64]), [...])
    """
    rng = np.random.default_rng(seed)
    drawn, captions = [], []
    for place in range(count):
        motif = any_motif(CLASSES[place % len(CLASSES)], rng)
        drawn.append(draw_motif(motif, random_pose(rng)))
        captions.append(random_caption(motif, rng))
    return as_tensor(drawn), captions


def any_motif(name: str, rng: np.random.Generator) -> Motif:
    """A class on a random background, in a usual colour or in any.

    Args:
        name: of the class.
        rng: chooses.

    Example:
        >>> any_motif("tree", np.random.default_rng(2)).name
        'tree'
    """
    if rng.random() < USUAL_SHARE:
        return random_motif(name, rng)
    return Motif(name, one_of(tuple(COLOURS), rng), one_of(tuple(BACKGROUNDS), rng))


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
