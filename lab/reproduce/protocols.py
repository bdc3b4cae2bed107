"""What the papers drew, with which settings, and the figures that they report. Their own numbers, next to which ours are put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...core.recipe.block_skip import BlockSkip
from ...core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ...core.recipe.presets import preset
from ...core.recipe.recipe import Recipe
from ...core.recipe.token_merge import TokenMerge
from ...core.recipe.token_prune import TokenPrune

DENSE = "dense"
TOMESD = "tomesd"
"""Name of the peer whose package patches the model, in the place of a recipe."""


@dataclass(frozen=True)
class Row:
    """One way to draw all pictures.

    Args:
        name: in tables and of its folder.
        recipe: that accelerates it; None for none.
        steps: of the sampler, if they are not the protocol's.
        peer: a package that accelerates it in the place of a recipe; "" for none.
        paper: what the paper reports, by the name of the column.

    Example:
        >>> Row("dense", paper={"FID": "33.66"}).recipe is None
        True
    """

    name: str
    recipe: Recipe | None = None
    steps: int | None = None
    peer: str = ""
    paper: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """One experiment of a paper.

    Args:
        paper: title and number.
        model: that the paper used.
        prompts: what a line of `--prompts` is, and where the paper has them from.
        references: the pictures that FID is measured against.
        pictures: how many are drawn.
        template: prompt, with a line in the place of {}.
        sampler: short name.
        steps: of the sampler.
        guidance: scale.
        size: side of a picture in pixels.
        rows: the ways that are compared.

    Example:
        >>> protocol("ca-tome").prompt("tench")
        'A high-quality photograph of a tench.'
    """

    paper: str
    model: str
    prompts: str
    references: str
    pictures: int
    sampler: str
    steps: int
    guidance: float
    size: int
    rows: tuple[Row, ...]
    template: str = "{}"

    def prompt(self, line: str) -> str:
        """Return the prompt of a line."""
        return self.template.format(line)


def _figures(**columns: str) -> dict[str, str]:
    """Return the paper's figures; `x` is the speed-up."""
    return {"FID": columns.pop("fid", ""), "s a picture": columns.pop("seconds", ""), "speed-up": columns.pop("x", "")}


def _ca_tome_rows() -> Iterator[Row]:
    """Tables I and II: thresholds without cache, checkpoint lists at 0.7, and ToMe."""
    yield Row(DENSE, paper=_figures(fid="33.66", seconds="7.61", x="1"))
    thresholds = {
        0.4: ("35.28", "6.07"),
        0.5: ("35.46", "6.07"),
        0.6: ("35.56", "6.10"),
        0.7: ("34.30", "6.23"),
        0.8: ("33.80", "6.58"),
        0.9: ("33.42", "6.92"),
    }
    for threshold, (fid, seconds) in thresholds.items():
        merge = TokenMerge(threshold, checkpoints="every", bucket=1, max_downsample=1)
        yield Row(f"threshold {threshold:g}, no cache", Recipe.of([merge]), paper=_figures(fid=fid, seconds=seconds))
    lists = {
        "config_1": ("36.14", "6.18", "1.23"),
        "config_2": ("34.33", "6.13", "1.24"),
        "config_3": ("34.05", "6.09", "1.25"),
        "config_4": ("34.82", "6.12", "1.24"),
        "config_adaptive": ("35.56", "6.19", "1.23"),
        "config_five": ("35.20", "6.14", "1.24"),
    }
    for name, (fid, seconds, speedup) in lists.items():
        if name in CHECKPOINT_PRESETS:
            merge = TokenMerge(0.7, checkpoints=name, bucket=1, max_downsample=1)
            yield Row(f"0.7, {name}", Recipe.of([merge]), paper=_figures(fid=fid, seconds=seconds, x=speedup))
    yield Row("ToMe, ratio 0.5", peer=TOMESD, paper=_figures(fid="34.16", seconds="6.39", x="1.19"))


def _dato_rows(fid: str, speedup: str) -> tuple[Row, ...]:
    """The published schedules. The paper does not say which of them gave its figures; those stand at the first."""
    head = _figures(fid=f"dense {fid}", x=speedup)
    ratio = Recipe.of([TokenPrune(ratio=0.5)])
    return (
        Row(DENSE),
        Row("DaTo (coco list, 40 %)", preset("dato_coco"), paper=head),
        *(Row(f"DaTo ({name[5:]} list, 40 %)", preset(name)) for name in ("dato_b", "dato_c", "dato_d")),
        Row("as released (coco list, 40 %)", preset("dato_reference")),
        Row("pruning alone, 50 %", ratio),
        Row("DeepCache, every 5", Recipe.of([BlockSkip(every=5)])),
        Row("dense, 26 steps", steps=26),
    )


def _mask_rows(
    steps: int,
    fewer: int,
    mask: Path | None,
    dense: Mapping[str, str],
    ours: Mapping[str, str],
    fora: Mapping[str, str],
) -> tuple[Row, ...]:
    """A trained mask beside FORA and fewer steps. `mask` is the file, which `skipstone train-mask` writes."""
    trained = Recipe.of([BlockSkip(mask=str(mask))]) if mask else None
    rows = [
        Row(DENSE, paper=dense),
        Row(f"dense, {fewer} steps", steps=fewer),
        Row("FORA, every 2", Recipe.of([BlockSkip(rule="fora", every=2, caching="branch")]), paper=fora),
    ]
    return (*rows, *([Row("trained mask", trained, paper=ours)] if trained else []))


_CA_TOME = "CA-ToMe (arXiv 2501.00946)"
_DATO = "DaTo (arXiv 2501.00375)"
_MASKS = "timestep-aware block masking"
_CLASSES = "an ImageNet class, such as tench: 1000 lines"
_SD15 = "Stable Diffusion 1.5"
Name = Literal["ca-tome", "dato", "dato-coco", "dit-256", "dit-512", "pixart"]


def protocol(name: Name, mask: Path | None = None) -> Protocol:
    """Return an experiment by name.

    Args:
        name: `ca-tome`; `dato` (ImageNet classes) or `dato-coco`; of block masking `dit-256`, `dit-512` or `pixart`.
        mask: a trained mask's file, for block masking.

    Example:
        >>> dit = protocol("dit-256", mask=Path("dit.safetensors"))
        >>> dit.steps, [row.name for row in dit.rows][-1], dit.rows[-1].paper["FID"]
        (100, 'trained mask', '2.29')
    """
    makers = {
        "ca-tome": lambda: Protocol(
            _CA_TOME, _SD15, _CLASSES, "5000 ImageNet validation pictures", 2000, "pndm", 50, 7.5, 512,
            tuple(_ca_tome_rows()), template="A high-quality photograph of a {}.",
        ),
        "dato": lambda: Protocol(
            _DATO, _SD15, _CLASSES, "50 000 ImageNet validation pictures", 2000, "pndm", 50, 7.5, 512,
            _dato_rows("- 0.33", "9"),
        ),
        "dato-coco": lambda: Protocol(
            _DATO, _SD15, "a caption of COCO", "30 000 COCO pictures", 30_000, "pndm", 50, 7.5, 512,
            _dato_rows("- 2.17", "7"),
        ),
        "dit-256": lambda: Protocol(
            _MASKS, "DiT-XL/2, 256 px", _CLASSES, "ImageNet", 50_000, "ddim", 100, 1.5, 256,
            _mask_rows(100, 56, mask, _figures(fid="2.16", x="1"), _figures(fid="2.29", x="1.67"),
                       _figures(fid="4.29", x="1.74")),
        ),
        "dit-512": lambda: Protocol(
            _MASKS, "DiT-XL/2, 512 px", _CLASSES, "ImageNet", 50_000, "ddim", 50, 1.5, 512,
            _mask_rows(50, 34, mask, _figures(fid="3.33", x="1"), _figures(fid="3.64", x="1.48"),
                       _figures(fid="42.43", x="1.67")),
        ),
        "pixart": lambda: Protocol(
            _MASKS, "PixArt-Sigma-XL", "a caption of COCO", "COCO pictures", 30_000, "", 50, 4.5, 1024,
            _mask_rows(50, 38, mask, _figures(fid="24.33", x="1"), _figures(fid="22.97", x="1.43"), _figures()),
        ),
    }  # fmt: skip
    return makers[name]()
