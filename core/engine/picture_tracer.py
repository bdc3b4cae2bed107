"""Finds where the picture's tokens stand in a network's sequences, by following its latent through one forward.

Whatever is computed from the latent is marked. Where a tensor of as many tokens as the latent has patches joins others in
one sequence (`torch.cat`, or a copy into a part of it), its place there is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import Decline
from ..tokens.grid import Grid
from ..tokens.span import Span
from .nest import leaves

_EMPTY = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
_JOINS = ("cat", "concat", "concatenate")

Place = tuple[int, int, int]
"""Length of a sequence, where its picture tokens start, and their number."""
Mark = Place | Literal["pure", "mixed"]
"""What is known of a tensor that was computed from the latent: a place in it, or whether text was joined to it."""
_PURE: Mark = "pure"
_MIXED: Mark = "mixed"


class PictureTracer(TorchFunctionMode):
    """Follows the latent through one forward.

    Args:
        sizes: numbers of tokens that the latent may have -> number of frames, and the grid of each.

    Example:
        >>> import torch
        >>> text, latent = torch.zeros(1, 3, 8), torch.zeros(1, 4, 8)
        >>> tracer = PictureTracer({4: (1, Grid(2, 2, 2))})
        >>> tracer.open([latent])
        >>> keys = torch.cat([text, latent * 2], dim=1)
        >>> tracer.close()
        >>> tracer.span(keys, 7).start, tracer.span(text, 3)
        (3, None)
    """

    def __init__(self, sizes: Mapping[int, tuple[int, Grid]]) -> None:
        """Prepare; nothing is followed before :meth:`open`."""
        super().__init__()
        self._sizes = dict(sizes)
        self._marks: Any = WeakIdKeyDictionary()
        self._places: dict[int, set[Place]] = {}
        self._raw: set[tuple[int, ...]] = set()
        self._following = False

    def open(self, latent: Iterable[Tensor]) -> None:
        """Begin to follow.

        Args:
            latent: the network's input, in one tensor or several.
        """
        for tensor in latent:
            self._marks[tensor] = _PURE
            self._raw |= {tensor.shape[1:], tensor.shape[2:]} if tensor.ndim > 3 else set()
        self._following = True
        self.__enter__()

    def close(self) -> None:
        """Stop following. It may be called twice; after an interrupt the mode may stay, but does nothing."""
        if self._following and _get_current_function_mode() is self:
            self.__exit__(None, None, None)
        self._following = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch, and mark what it made of marked tensors."""
        output = func(*args, **(kwargs or {}))
        if self._following:
            self._follow(getattr(func, "__name__", ""), args, kwargs or {}, output)
        return output

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether a tensor was computed from the latent."""
        return tensor in self._marks

    def span(self, key: Tensor, length: int) -> Span | None:
        """Return which of the tokens of an attention are the picture's. None for one without the picture.

        Args:
            key: its keys, or anything that they were computed from.
            length: number of their tokens.

        Raises :class:`Decline` if that is not certain.
        """
        if key not in self._marks:
            return None
        if self._marks[key] is _PURE and length in self._sizes:
            self._remember([(length, 0, length)])
        known = {place for place in self._places.get(length, ()) if place[2] in self._sizes}
        if len(known) != 1:
            raise Decline("it is not certain which tokens of its sequence are the picture's")
        _, start, tokens = next(iter(known))
        frames, grid = self._sizes[tokens]
        self._sizes = {tokens: (frames, grid)}  # all sequences have as many picture tokens
        return Span(start, frames, grid, length)

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        marked = [value for _, value in leaves((args, kwargs)) if isinstance(value, Tensor) and value in self._marks]
        if not marked or name in _EMPTY or name.startswith("new_"):
            return
        if name == "__setitem__":
            self._copied(*args)
            return
        marks = [self._marks[value] for value in marked]
        joined = self._joined(*args, **kwargs) if name in _JOINS else None
        for _, made in leaves(output):
            if isinstance(made, Tensor):
                self._marks[made] = joined or _inherited(marks, made)

    def _joined(self, tensors: Any, dim: int = 0, axis: int | None = None, **_: Any) -> Mark | None:
        """Return the mark of what `torch.cat` made. None if it is that of its parts: channels, or the picture's alone."""
        along = (dim if axis is None else axis) % tensors[0].ndim
        if self._along_channels(tensors[0], along):
            return None
        found, at = [], 0
        for part in tensors:
            length = part.shape[along]
            if (inner := self._place_in(part, length)) is not None:
                found.append((at + inner[1], inner[2]))
            at += length
        place = self._remember([(at, start, tokens) for start, tokens in found])
        pure = all(self._marks.get(part) is _PURE for part in tensors)
        return place or (None if pure else _MIXED)

    def _along_channels(self, tensor: Tensor, dim: int) -> bool:
        """Whether a dimension is that of channels: the last one of tokens, one in front of rows and columns of a latent."""
        raw = (len(sides) for sides in self._raw if tensor.shape[-len(sides) :] == sides)
        return dim == tensor.ndim - 1 > 0 or any(dim < tensor.ndim - sides for sides in raw)

    def _copied(self, target: Any, index: Any, value: Any) -> None:
        """Mark the target of `target[index] = value`, where the index selects a part of its second dimension."""
        if not isinstance(target, Tensor) or not isinstance(value, Tensor) or value not in self._marks:
            return
        part = index[1] if isinstance(index, tuple) and len(index) > 1 else None
        self._marks[target] = _MIXED
        if isinstance(part, slice) and target.ndim > 1:
            total = target.shape[1]
            start, stop, _ = part.indices(total)
            if stop - start in self._sizes and stop - start in value.shape:
                self._marks[target] = self._remember([(total, start, stop - start)])

    def _place_in(self, part: Tensor, length: int) -> Place | None:
        """Return the picture's place in one part of a sequence; None if it has none."""
        mark = self._marks.get(part)
        if mark is None or (isinstance(mark, tuple) and mark[0] == length):
            return mark
        return (length, 0, length) if length in self._sizes else None

    def _remember(self, places: list[Place]) -> Place | None:
        """Register places, and return the only one; None if there are none or several."""
        for place in places:
            self._places.setdefault(place[0], set()).add(place)
        return places[0] if len(places) == 1 else None


def _inherited(marks: list[Mark], made: Tensor) -> Mark:
    """Return the mark of what was made of marked tensors: sequences keep the picture's place as long as their length."""
    places = [mark for mark in marks if isinstance(mark, tuple) and mark[0] in made.shape]
    return places[0] if places else _PURE if all(mark is _PURE for mark in marks) else _MIXED
