"""Forge's own networks (`FORGE_PATH`, a checkout) with random weights in the web UI's bracket.

Flux and Chroma measure time from 1 to 0, Stable Diffusion 3.5 from 1000, the U-Nets in timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import served
import tiny
import torch
from doubles.a1111 import traces
from hosts.test_unets import forge_sd1, forge_sdxl, import_forge

from skipstone.a1111_extension.bracket import UNetBracket
from skipstone.core.engine.report import Report
from skipstone.core.recipe.block_skip import BlockSkip, parse_depths
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Method, Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

CALLS = 7
NOISE_LEVELS = tuple(1 - k / CALLS for k in range(CALLS))
FLUX: dict[str, Any] = {
    "in_channels": 4,
    "vec_in_dim": 6,
    "context_in_dim": 8,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 100,
    "qkv_bias": True,
}


def flux_case(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    """Two double and two single blocks."""
    import_forge(monkeypatch)
    from backend.nn.flux import IntegratedFluxTransformer2DModel

    model = IntegratedFluxTransformer2DModel(guidance_embed=False, **FLUX)
    vector = torch.linspace(-1, 1, 6)
    return tiny.Case("flux", tiny.randomise(model), lambda m, x, t, c: m(x, t, c, vector.repeat(len(x), 1)))


def chroma_case(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    """As Flux, with modulations from one small network."""
    import_forge(monkeypatch)
    from backend.nn.chroma import IntegratedChromaTransformer2DModel

    guidance = {"guidance_out_dim": 32, "guidance_hidden_dim": 16, "guidance_n_layers": 1}
    model = IntegratedChromaTransformer2DModel(**FLUX, **guidance)
    return tiny.Case("chroma", tiny.randomise(model), lambda m, x, t, c: m(x, t, c))


def sd35_case(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    """Five joint blocks. The number of output channels is fixed at 16 there."""
    import_forge(monkeypatch)
    from backend.nn.mmditx import MMDiTX

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 320}}
    shape = {"input_size": None, "pos_embed_max_size": 8, "num_patches": 64, "in_channels": 16, "depth": 5}
    model = MMDiTX(adm_in_channels=6, context_embedder_config=embedder, qk_norm="rms", **shape)
    vector = torch.linspace(-1, 1, 6)
    call = lambda m, x, t, c: m(x, t, y=vector.repeat(len(x), 1), context=c)  # noqa: E731
    return tiny.Case("sd35", tiny.randomise(model), call)


KINDS: dict[str, tuple[Callable[[pytest.MonkeyPatch], tiny.Case], int, float]] = {
    "Flux": (flux_case, 4, 1.0),
    "Chroma": (chroma_case, 4, 1.0),
    "SD 3.5": (sd35_case, 16, 1000.0),
    "SD 1.5": (forge_sd1, 4, 999.0),
    "SDXL": (forge_sdxl, 4, 999.0),
}
"""Family -> its builder, the channels of a latent, and the unit of its time."""


@pytest.fixture
def case(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tiny.Case]:
    """A family's network; nothing may be left on it."""
    case = KINDS[kind][0](monkeypatch)
    yield case
    assert list(traces(case.model)) == []


def drawn(kind: str, case: tiny.Case, recipe: Recipe | None) -> tuple[torch.Tensor, Report | None]:
    """The last latent of a run, and its report."""
    bracket = UNetBracket(case.model, recipe) if recipe else None
    _, channels, unit = KINDS[kind]
    x, context = tiny.noise(1, channels, 8, 8), tiny.noise(1, 3, 8)
    for level in NOISE_LEVELS:
        x = x - 0.1 * case.call(case.model, x, torch.full((1,), level * unit), context)
    return x, bracket.end() if bracket else None


METHODS: dict[str, tuple[Method, str]] = {
    "calls": (CallSkip(every=2), "calls_forecast"),
    "blocks": (BlockSkip(rule="interval", every=2), "blocks_reused"),
    "merge": (TokenMerge(threshold=-1.0, bucket=1, max_downsample=8), "merged_share"),
    "prune": (TokenPrune(ratio=0.5, max_downsample=8), "merged_share"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_forges_networks_are_served_with(kind: str, case: tiny.Case) -> None:
    """Whole calls, blocks and tokens, as the report says. Afterwards the network draws as before."""
    dense, _ = drawn(kind, case, None)
    for name, (settings, done) in METHODS.items():
        picture, report = drawn(kind, case, Recipe.of([settings]))
        assert report is not None and not torch.equal(picture, dense) and getattr(report, done) > 0
        assert not report.declined
        served.check("Forge", kind, name, served.SERVED)
    assert torch.equal(drawn(kind, case, None)[0], dense)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_change_nothing_change_no_bit(kind: str, case: tiny.Case) -> None:
    neutral = [BlockSkip(rule="interval", every=1), TokenMerge(threshold=1.0), CallSkip(every=1)]
    assert torch.equal(drawn(kind, case, Recipe.of(neutral))[0], drawn(kind, case, None)[0])


def calls_in_full(case: tiny.Case, rule: BlockSkip) -> list[int]:
    """The calls of a run at which the first single block really ran; nothing runs there in the others."""
    bracket, ran = UNetBracket(case.model, Recipe(skip=rule)), []
    block = case.model.single_blocks[0]
    forward, at = block.linear1.forward, [0]
    block.linear1.forward = lambda x: (ran.append(at[0]), forward(x))[1]
    x, context = tiny.noise(1, 4, 8, 8), tiny.noise(1, 3, 8)
    for number in range(CALLS):
        at[0] = number
        case.call(case.model, x, torch.full((1,), 1 - number / (CALLS - 1)), context)
    del block.linear1.forward
    report = bracket.end()
    assert report.calls == CALLS and report.blocks_run == len(ran) * len(case.model.double_blocks) * 2
    return ran


@pytest.mark.parametrize("kind", ["Flux"])
def test_a_list_of_depths_runs_at_its_own_calls(case: tiny.Case) -> None:
    depths = BlockSkip(rule="depths", depths=parse_depths("12 0 12 0 12 0"))
    assert calls_in_full(case, depths) == [0, 1, 3, 5]


@pytest.mark.parametrize("kind", ["Flux"])
def test_a_window_is_one_of_the_run(case: tiny.Case) -> None:
    assert calls_in_full(case, BlockSkip(rule="interval", every=CALLS, start=0.4)) == [0, 1, 2]
    assert calls_in_full(case, BlockSkip(rule="interval", every=CALLS, end=0.4)) == [0, 3, 4, 5, 6]
