"""Families of models: recognised by class name and structure; their sites; how their arguments are read."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from skipstone.core.errors import Decline, ModelError
from skipstone.core.models import FAMILIES, HOST_FAMILIES, models_served, recognise, sites_of
from skipstone.core.models.diffusers_unet import mask_bias
from skipstone.core.models.family import DATO_SCHEDULE, KERNEL_TOKENS

EXPECTED = {
    "ldm": ("ldm U-Net", 7),
    "diffusers": ("diffusers U-Net", 7),
    "sdxl": ("diffusers U-Net", 11),
    "dit": ("diffusers DiT", 2),
    "pixart": ("diffusers DiT", 2),
    "paper_dit": ("DiT", 2),
}


def test_family_and_sites(case: tiny.Case) -> None:
    family = recognise(case.model)
    name, count = EXPECTED[case.name]
    assert family.name == name
    sites = sites_of(case.model, family)
    assert len(sites) == count
    modules = dict(case.model.named_modules())
    for site in sites:
        block: Any = modules[site.name]
        assert site.norm is block.norm1
        assert site.refusal == ""
        assert all(m in block.children() for m in site.modules.values())
        assert site.modules["attn1"] is getattr(block, "attn" if case.name == "paper_dit" else "attn1")
    assert [s.name for s in sites] == sorted((s.name for s in sites), key=list(modules).index)


def test_families_do_not_overlap(case: tiny.Case) -> None:
    assert sum(f.matches(case.model) for f in FAMILIES) == 1


def test_a_family_says_which_methods_its_structure_serves(case: tiny.Case) -> None:
    family = recognise(case.model)
    by_structure = {"block_skip"} if len(family.graph(case.model, family.cachings[0])) else set()
    by_structure |= {"token_merge", "token_prune"} if family.sites(case.model) else set()
    more = {DATO_SCHEDULE, KERNEL_TOKENS}
    assert all(set(kinds) - more <= by_structure for kinds in family.serves.values())
    assert set().union(*family.serves.values()) - more == by_structure


def test_lists_of_supported_models_come_from_the_families() -> None:
    assert models_served("token_merge", HOST_FAMILIES) == ("SD1.x", "SD2.x", "SDXL", "PixArt")
    assert models_served("token_merge") == ("SD1.x", "SD2.x", "SDXL", "LDM", "DiT", "PixArt")
    assert models_served("dato", HOST_FAMILIES) == ("SD1.x", "SD2.x", "SDXL")
    hosts = ("SD1.x", "SD2.x", "SDXL", "SVD", "PixArt", "SD3", "Flux", "Chroma")
    assert models_served("block_skip", HOST_FAMILIES) == hosts == models_served(families=HOST_FAMILIES)
    with pytest.raises(ModelError, match=r"Linear is not of a supported family .*SD1\.x, .*DiT, .*Chroma"):
        recognise(nn.Linear(1, 1))


def test_roles_of_a_block() -> None:
    roles = {
        n: set(sites_of(c.model, recognise(c.model))[0].modules)
        for n, c in ((n, b()) for n, b in tiny.BUILDERS.items())
    }
    everything = {"attn1", "attn2", "ff"}
    assert roles["ldm"] == roles["diffusers"] == roles["sdxl"] == roles["pixart"] == everything
    assert roles["dit"] == roles["paper_dit"] == {"attn1", "ff"}


def test_looking_a_model_over_changes_nothing(case: tiny.Case) -> None:
    before = tiny.snapshot(case.model)
    sites_of(case.model, recognise(case.model))
    assert tiny.snapshot(case.model) == before


@pytest.mark.parametrize("name", ["ldm", "diffusers"])
def test_blocks_whose_first_attention_is_a_cross_attention_are_refused(name: str) -> None:
    if name == "ldm":
        case = tiny.ldm_unet(disable_self_attentions=(True, False))
    else:
        case = tiny.diffusers_unet(only_cross_attention=True)
    refused = [s for s in sites_of(case.model, recognise(case.model)) if s.refusal]
    assert refused
    assert all("cross-attention" in s.refusal and "\n" not in s.refusal for s in refused)


def test_sr_attention_is_refused() -> None:
    case = tiny.paper_dit()
    case.model.blocks[0].attn.sr_ratio = 2
    first, second = sites_of(case.model, recognise(case.model))
    assert "compresses" in first.refusal
    assert second.refusal == ""


class NoBlocks(nn.Module):
    """An ldm U-Net by name only."""


NoBlocks.__name__ = "UNetModel"


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(), NoBlocks()], ids=["linear", "empty", "name only"])
def test_unknown_roots_are_refused_with_the_remedy(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="give the U-Net or transformer itself") as error:
        recognise(model)
    assert "\n" not in str(error.value)


class PackedBlock(nn.Module):
    """A block by the name of DiT's, of packed tokens with rotary positions (MiniMax H3 in ComfyUI)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.mlp = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Any, t_emb: Any, mod_segments: Any, rope_freqs: Any, transformer_options: Any = None) -> Any:
        """Tokens [S, C] of all rows."""
        return x


class TextBlock(PackedBlock):
    """As in speech models: an optional rotary embedding."""

    def forward(self, x: Any, t: Any, mask: Any = None, rope: Any = None) -> Any:  # type: ignore[override]
        """Tokens [B, N, C]."""
        return x


class OtherParts(nn.Module):
    """A block without a norm and a feed-forward by the known names."""

    def forward(self, x: Any, c: Any) -> Any:
        """Tokens [B, N, C]."""
        return x


@pytest.mark.parametrize("block", [PackedBlock, TextBlock, OtherParts])
def test_a_network_whose_blocks_are_only_named_like_dits_is_refused(block: type[nn.Module]) -> None:
    model = tiny.PaperDiT()
    assert recognise(model).name == "DiT"
    model.blocks[1] = type("DiTBlock", (block,), {})()
    with pytest.raises(ModelError, match="not of a supported family"):
        recognise(model)


class Flux(nn.Module):
    """Flux in its authors' own code, which wants packed pictures and their places."""

    double_blocks = single_blocks = nn.ModuleList()

    def forward(self, img: Any, img_ids: Any, txt: Any, txt_ids: Any, timesteps: Any, y: Any) -> Any:
        """[B, N, C] -> [B, N, C]."""


class MMDiT(nn.Module):
    """AuraFlow in ComfyUI: the class of SD3, other blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.double_layers = nn.ModuleList()

    def forward(self, x: Any, timestep: Any, context: Any) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""


class UNetModel(NoBlocks):
    """An encoder that takes no timestep."""

    input_blocks = output_blocks = nn.ModuleList()

    def forward(self, x: Any) -> Any:
        """[B, C, H, W] -> [B, C, H, W]."""


@pytest.mark.parametrize("kind", [Flux, MMDiT, UNetModel])
def test_a_network_of_a_known_class_name_that_takes_other_arguments_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ModelError, match=r"SDXL.*give the U-Net or transformer itself"):
        recognise(kind())


def test_a_hosts_wrapper_that_takes_anything_is_recognised(case: tiny.Case) -> None:
    """ControlNet and A1111 put their own forward on the root; the first call proves the rest."""
    plain = case.model.forward
    case.model.forward = lambda *args, **kwargs: plain(*args, **kwargs)  # type: ignore[method-assign]
    assert recognise(case.model).name == EXPECTED[case.name][0]


@pytest.mark.parametrize("stage", ["SkipDownBlock2D", "KCrossAttnDownBlock2D"])
def test_stages_that_hand_on_more_than_their_hidden_state_have_no_graph(stage: str) -> None:
    case = tiny.diffusers_unet()
    down = case.model.down_blocks[0]  # type: ignore[index]
    down.__class__ = type(stage, (type(down),), {})
    with pytest.raises(ModelError, match=f"{stage} has other skips"):
        recognise(case.model).graph(case.model)


def test_a_network_inside_a_wrapper_is_not_the_root() -> None:
    with pytest.raises(ModelError):
        recognise(nn.Sequential(tiny.ldm_unet().model))


def test_the_host_named_copies_are_recognised() -> None:
    """Forge names its copy of the U-Net otherwise; ComfyUI's and sgm's keep ldm's name."""
    model = tiny.ldm_unet().model
    model.__class__ = type("IntegratedUNet2DConditionModel", (type(model),), {})
    assert recognise(model).name == "ldm U-Net"


@pytest.mark.parametrize("block", ["PixArtBlock", "PixArtMSBlock"])
def test_blocks_of_comfyuis_pixart_are_recognised(block: str) -> None:
    model = tiny.PaperDiT()
    for b in model.blocks:
        b.__class__ = type(block, (type(b),), {})
        b.cross_attn = nn.Identity()
    family = recognise(model)
    assert family.name == "DiT"
    assert set(sites_of(model, family)[0].modules) == {"attn1", "attn2", "ff"}


def test_torch_compiles_wrapper_is_looked_through() -> None:
    case = tiny.diffusers_unet()
    compiled = torch.compile(case.model, backend="eager")
    assert recognise(compiled).name == "diffusers U-Net"  # type: ignore[arg-type]
    assert len(sites_of(compiled, recognise(compiled))) == 7  # type: ignore[arg-type]


def test_arguments_by_name_and_by_position(case: tiny.Case) -> None:
    family = recognise(case.model)
    x, t, c = torch.ones(1), torch.ones(2), torch.ones(3)
    latent, timestep, conditioning = (names[0] for names in family.names)
    by_name = family.inputs((), {latent: x, timestep: t, conditioning: c})
    mixed = family.inputs((x, t), {conditioning: c})
    by_place = family.inputs((x, t, c), {})
    for read in (by_name, mixed) if case.name in ("dit", "pixart") else (by_name, mixed, by_place):
        assert read.latent is x
        assert read.timestep is t
        assert read.conditioning is c
    assert family.inputs((x,), {}).conditioning is None


@pytest.mark.parametrize("kwargs", [{}, {"attention_mask": None, "scale": 2}])
def test_key_bias_of_diffusers(kwargs: dict[str, Any]) -> None:
    attention = tiny.diffusers_unet().model.mid_block.attentions[0].transformer_blocks[0].attn1
    bias = torch.rand(2, 9)
    got = mask_bias(attention, kwargs, bias)
    assert got["attention_mask"].shape == (2, 1, 9)
    assert torch.equal(got["attention_mask"][:, 0], bias)
    assert {k: v for k, v in got.items() if k != "attention_mask"} == {k: v for k, v in kwargs.items() if k == "scale"}


def test_a_mask_that_is_there_already_is_kept() -> None:
    attention = tiny.diffusers_unet().model.mid_block.attentions[0].transformer_blocks[0].attn1
    with pytest.raises(Decline, match="already has a mask"):
        mask_bias(attention, {"attention_mask": torch.zeros(1)}, torch.zeros(1, 4))
