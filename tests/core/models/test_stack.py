"""Stacks of like blocks are found by structure."""

from __future__ import annotations

import pytest
from torch import nn

from skipstone.core.errors import ModelError
from skipstone.core.models import recognise
from skipstone.core.models.stack import LEAST, lists_of


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.GELU())


def network(**parts: nn.Module) -> nn.Module:
    net = nn.Module()
    for name, part in parts.items():
        net.add_module(name, part)
    return net


def stack(count: int = LEAST) -> nn.ModuleList:
    return nn.ModuleList(block() for _ in range(count))


def test_lists_of_blocks_of_one_class_are_stacks() -> None:
    net = network(refiner=stack(LEAST - 1), joint=stack(), picture=stack(LEAST + 2))
    assert lists_of(net) == ("joint", "picture")
    assert [b.stack for b in recognise(net).graph(net).blocks] == ["joint"] * LEAST + ["picture"] * (LEAST + 2)


def test_layers_norms_and_lists_inside_of_blocks_are_none() -> None:
    mixed = nn.ModuleList([block(), block(), block(), network(a=nn.Linear(1, 1))])
    outer = nn.ModuleList(network(heads=stack(), out=nn.Linear(1, 1)) for _ in range(LEAST))
    net = network(norms=nn.ModuleList(nn.Sequential(nn.LayerNorm(2)) for _ in range(9)), mixed=mixed, outer=outer)
    assert lists_of(net) == ("outer",)


def test_named_blocks_and_a_transformer_one_level_down_are_found() -> None:
    named = nn.ModuleDict({f"block{i}": block() for i in range(LEAST)})
    assert lists_of(network(blocks=named, inner=network(layers=stack()))) == ("blocks", "inner.layers")


def test_a_network_without_stacks_is_of_no_family() -> None:
    with pytest.raises(ModelError):
        recognise(network(layers=stack(LEAST - 1)))


def test_attentions_and_feed_forwards_are_units_where_blocks_have_them() -> None:
    layers = nn.ModuleList(
        network(norm=nn.LayerNorm(2), self_attn=block(), cross_attn=block(), ffn=block()) for _ in range(4)
    )
    net = network(layers=layers)
    family = recognise(net)
    assert family.cachings == ("difference", "branch")
    units = [b.name for b in family.graph(net, "branch").blocks]
    assert units[:3] == ["layers.0.self_attn", "layers.0.cross_attn", "layers.0.ffn"] and len(units) == 12
