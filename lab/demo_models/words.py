"""What the demo models read in a prompt: the name of a class, or the words of a caption."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch

from .pictures import BACKGROUNDS, CLASSES, COLOURS

PAD, START = 0, 1
"""Tokens that stand for no word: behind the caption, and before it."""
WORDS = ("a", "an", "the", "on", "background", *CLASSES, *COLOURS, *BACKGROUNDS)
"""The vocabulary; the first word has the number after START."""
LENGTH = 10
"""Tokens of a caption, START included."""


def tokenize(captions: Sequence[str]) -> torch.Tensor:
    """Captions -> tokens int64 [B, LENGTH]. Warns of words that are not in the vocabulary, and leaves them out.

    Args:
        captions: texts; "" for the empty prompt of classifier-free guidance.

    Example:
        >>> tokenize(["A heart, on teal!", ""]).tolist()
        [[1, 2, 10, 5, 29, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    """
    split = [re.findall(r"\w+", caption.lower()) for caption in captions]
    _warn(split)
    rows = [[START, *(START + 1 + WORDS.index(word) for word in words if word in WORDS)][:LENGTH] for words in split]
    return torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])


def _warn(split: Sequence[Sequence[str]]) -> None:
    unknown = dict.fromkeys(word for words in split for word in words if word not in WORDS)
    if unknown:
        warnings.warn(f"the flow model does not know {', '.join(unknown)}: it knows {' '.join(WORDS)}", stacklevel=3)
    if any(sum(word in WORDS for word in words) >= LENGTH for words in split):
        warnings.warn(f"the flow model reads the first {LENGTH - 1} words of a caption only", stacklevel=3)


def class_number(text: str) -> int:
    """The number of the first class that a text names; that of the empty prompt where it names none.

    Warns of a text with words and no class.

    Args:
        text: such as "heart" or "a red heart".

    Example:
        >>> class_number("a red heart"), class_number("")
        (3, 10)
    """
    words = re.findall(r"\w+", text.lower())
    found = [CLASSES.index(word) for word in words if word in CLASSES]
    if words and not found:
        warnings.warn(f"the demo model draws {', '.join(CLASSES)}: {text[:60]!r} names none of them", stacklevel=2)
    return found[0] if found else len(CLASSES)
