"""Networks of no known family without a stack of blocks: whole calls can be skipped, blocks and tokens cannot."""

from __future__ import annotations

from .family import Family
from .graph import BlockGraph

ANYTHING = Family(
    name="any network",
    matches=lambda root: True,
    sites=lambda root: [],
    graph=lambda root, caching="output": BlockGraph((), (), frozenset()),
    serves={},
    names=(
        ("hidden_states", "sample", "x"),
        ("timestep", "timesteps", "t", "sigma"),
        ("encoder_hidden_states", "class_labels", "cap_feats", "context", "c"),
    ),
    time_scale=None,
)
"""Reads the arguments that the networks of diffusers and of the papers have in common."""
