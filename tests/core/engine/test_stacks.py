"""Networks of no known family: what their blocks pass on is observed, and what they add to it is cached, in sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.report import Report
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe

CALLS, BLOCKS, SHAPE = (900.0, 700.0, 500.0, 300.0, 100.0), 4, (2, 6, 8)
BYTES = 4 * 2 * 6 * 8
EVERY_2 = BlockSkip(rule="interval", every=2)


class Layer(nn.Module):
    """x + tanh(W x) t."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(SHAPE[-1], SHAPE[-1]), nn.Linear(SHAPE[-1], SHAPE[-1])

    def gain(self, x: Tensor, t: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x))) * t.view(-1, 1, 1).cos()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.gain(x, t)


class InPlace(Layer):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x += self.gain(x.clone(), t)
        return x


class Joint(Layer):
    """Text and picture of one shape; named arguments, in another order than the outputs."""

    def forward(self, *, text: Tensor, t: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        return picture + self.gain(text, t), text + self.gain(picture, -2 * t)


class Nested(Layer):
    """A pair of sound and picture goes in and comes out."""

    def forward(self, pair: tuple[Tensor, Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        return pair[0] + self.gain(pair[0], t), pair[1] + self.gain(pair[1], 3 * t)


class WithMap(Layer):
    """Also returns what the network reads, but no block continues."""

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        gain = self.gain(x, t)
        return x + gain, gain.mean(dim=-1)


def along_lengthened(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    """HiDream's blocks: tokens are added before each, and dropped after it."""
    for number, layer in enumerate(layers):
        x = layer(torch.cat([x, x[:, :2] * number], dim=1), t)[:, : SHAPE[1]]
    return x


class Reader(Layer):
    """Reads the output of an earlier block beside what is passed on."""

    def forward(self, x: Tensor, t: Tensor, skip: Tensor | None = None) -> Tensor:
        return x + self.gain(x if skip is None else x + 2 * skip, t)


def along(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, t)
    return x


def along_controlled(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, t)
        x += 0.1 * t.view(-1, 1, 1).sin()  # as a ControlNet's residual, in place
    return x


def jointly(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    picture, text = x, x.flip(1)
    for layer in layers:
        picture, text = layer(picture=picture, t=t, text=text)
    return picture + text


def in_pairs(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    pair = (x, x.flip(1)[:, :3])
    for layer in layers:
        pair = layer(pair, t)
    return pair[0] + pair[1].mean(dim=1, keepdim=True)


def with_maps(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    maps = 0.0
    for layer in layers:
        x, one = layer(x, t)
        maps = maps + one
    return x + maps[..., None]


def with_skips(layers: Any, x: Tensor, t: Tensor) -> Tensor:
    first, second, third, fourth = layers
    a = first(x, t)
    b = second(a, t)
    return fourth(third(b, t, skip=b), t, skip=a)


KINDS: dict[str, tuple[type[Layer], Callable[..., Tensor], int]] = {
    "plain": (Layer, along, 1),
    "in place": (InPlace, along, 1),
    "residuals between": (Layer, along_controlled, 1),
    "text and picture": (Joint, jointly, 2),
    "pairs": (Nested, in_pairs, 2),
    "other outputs": (WithMap, with_maps, BLOCKS + 1),
    "longer in between": (Layer, along_lengthened, BLOCKS + 1),
    "long skips": (Reader, with_skips, BLOCKS),
}


def network(kind: str) -> nn.Module:
    """The network of a kind; `layers` are its stack."""
    layer, walk, _ = KINDS[kind]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layer() for _ in range(BLOCKS))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return walk(self.layers, x.clone(), t)

    return tiny.randomise(Net())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def run(
    net: nn.Module, recipe: BlockSkip | None, planned: bool = True, still: bool = False
) -> tuple[list[Tensor], Report]:
    """The outputs of a run; `still` has the same input at every call."""
    engine, outputs = Engine(net, Recipe.of([recipe] if recipe else [])), []
    with torch.no_grad(), engine.run(CALLS if planned else None):
        for number, t in enumerate(CALLS):
            x = tiny.noise(*SHAPE, seed=0 if still else number)
            with engine.call(Call(t, SHAPE[1:], (Stream("all", SHAPE[0]),))):
                outputs.append(net(x, torch.full(SHAPE[:1], 0.3 if still else t / 500)))
    return outputs, engine.report


def test_the_same_input_gives_the_same_output(kind: str) -> None:
    outputs, report = run(network(kind), EVERY_2, still=True)
    assert report.declined == {} and report.blocks_reused >= BLOCKS
    for output in outputs:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-5)


def test_sums_are_what_the_blocks_add_one_by_one(kind: str) -> None:
    """Known calls are kept in sums; unknown ones block by block."""
    (sums, of_sums), (singles, of_singles) = (run(network(kind), EVERY_2, planned) for planned in (True, False))
    assert of_sums.blocks_reused > 0 and of_singles.blocks_reused > 0
    for one, other in zip(sums[2:], singles[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_sum_takes_one_tensor_where_all_blocks_only_add(kind: str) -> None:
    _, report = run(network(kind), EVERY_2)
    _, singles = run(network(kind), EVERY_2, planned=False)
    if KINDS[kind][2] <= 2:
        assert report.cache_bytes * BLOCKS == singles.cache_bytes
    else:
        assert report.cache_bytes == singles.cache_bytes


def test_running_everything_changes_no_bit(kind: str) -> None:
    everything = BlockSkip(rule="interval", every=2, start=0.0, end=1e-6)
    for one, other in zip(run(network(kind), everything)[0], run(network(kind), None)[0], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [name for name, (_, _, tensors) in KINDS.items() if tensors <= 2])
def test_a_line_through_two_sums_is_the_sum_of_the_lines(kind: str) -> None:
    line = BlockSkip(rule="interval", every=2, forecast=True)
    sums, singles = (run(network(kind), line, planned)[0] for planned in (True, False))
    for one, other in zip(sums[2:], singles[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_blocks_that_replace_their_input_run_at_every_call() -> None:
    class Mixer(Layer):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(x)[..., :-1] if x.shape[-1] > 4 else x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Mixer() for _ in range(BLOCKS))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return sum((layer(x, t) for layer in self.layers), torch.zeros(()))

    net = tiny.randomise(Net())
    outputs, report = run(net, EVERY_2)
    ((reason, what),) = report.declined.items()
    assert what == ["block skipping"] and "does not pass its output on" in reason
    assert all(map(torch.equal, outputs, run(net, None)[0]))


def test_a_forward_that_fails_and_is_run_again_leaves_no_half_sum(kind: str) -> None:
    net, outputs = network(kind), []
    layer: Any = net.layers[2]  # type: ignore[index]
    plain, left = layer.gain, [RuntimeError("out of memory")]

    def gain(x: Tensor, t: Tensor) -> Tensor:
        if left:
            raise left.pop()
        return plain(x, t)

    layer.gain = gain
    engine = Engine(net, Recipe.of([EVERY_2]))
    with torch.no_grad(), engine.run(CALLS):
        for t in (CALLS[0], *CALLS):
            try:
                with engine.call(Call(t, SHAPE[1:], (Stream("all", SHAPE[0]),))):
                    outputs.append(net(tiny.noise(*SHAPE, seed=len(left)), torch.full(SHAPE[:1], 0.3)))
            except RuntimeError:
                assert t == CALLS[0]
    assert engine.report.declined == {} and engine.report.blocks_reused > 0
    for output in outputs:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-5)


class Operators(TorchDispatchMode):
    """Counts the operators that are launched."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_reused_call_launches_as_few_operators_whatever_the_number_of_blocks() -> None:
    counts = []
    for layers in (2, 5):
        net = tiny.randomise(DiTTransformer2DModel(2, 8, num_layers=layers, sample_size=16, norm_num_groups=4))
        engine, found = Engine(net, Recipe.of([BlockSkip(rule="interval", every=2, caching="difference")])), []
        with torch.no_grad(), engine.run((900.0, 500.0)):
            for t in (900.0, 500.0):
                with engine.call(Call(t, (16, 16), (Stream("all", 1),))), Operators() as launched:
                    net(tiny.noise(1, 4, 16, 16), timestep=torch.tensor([t]), class_labels=torch.tensor([1]))
                found.append(launched.count)
        counts.append(found)
    (few, reused), (many, reused_of_many) = counts
    assert reused == reused_of_many < few < many
