"""What several workflows share: loaders, notes, and the usual graph of one sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .workflow_nodes import Node, Workflow

HUB = "https://huggingface.co/"
LAKE = "a flat stone skipping over a calm lake at sunrise, rings on the water, photograph"
AUTO = ("balanced", 2.0, 0.0, True, "none")
READ = "**2.** Run. The node Skipstone counts the calls as they go, and afterwards shows what was saved."
TRY = (
    "**3.** Too far from the original? Set *level* to gentle. Fast enough, but could be faster? fast, or custom with a "
    "number of your own. The seed is fixed, so that you see the difference."
)


def note_of(*lines: str, top: int = 730) -> Node:
    """What to do, one paragraph a line.

    Args:
        lines: in Markdown.
        top: of the note.
    """
    return Node("MarkdownNote", (40, top), (330, 330), ("\n\n".join(lines),), title="Skipstone")


def loaded(model: tuple[str, str], text: tuple[str, str], kind: str, vae: tuple[str, str]) -> dict[int, Node]:
    """Loaders of a model, one text encoder and a VAE: nodes 1, 11 and 12.

    Args:
        model: its file, and the place of it.
        text: the text encoder's.
        kind: of the text encoder.
        vae: the VAE's.
    """
    return {
        1: unet_of(*model),
        11: Node(
            "CLIPLoader", (40, 255), (330, 120), (text[0], kind, "default"), files=file_of(text[0], "text_encoders", text[1])
        ),
        12: vae_of(*vae),
    }  # fmt: skip


def unet_of(name: str, place: str) -> Node:
    """The loader of a model.

    Args:
        name: of the file.
        place: repository and folder of it.
    """
    return Node("UNETLoader", (40, 120), (330, 90), (name, "default"), files=file_of(name, "diffusion_models", place))


def vae_of(name: str, place: str) -> Node:
    """The loader of a VAE.

    Args:
        name: of the file.
        place: repository and folder of it.
    """
    return Node("VAELoader", (40, 440), (330, 70), (name,), files=file_of(name, "vae", place))


def file_of(name: str, folder: str, place: str) -> tuple[tuple[str, str, str], ...]:
    """A file that a loader needs, for :class:`Node`.

    Args:
        name: of the file.
        folder: of ComfyUI's models.
        place: repository and folder of it.
    """
    return ((name, folder, f"{HUB}{place}/{name}?download=true"),)


def sampled(
    loaders: Workflow,
    latent: Node,
    sampler: tuple[Any, ...],
    clip: tuple[int, int],
    vae: tuple[int, int],
    model: tuple[int, int],
    note: Node,
    prompts: tuple[str, str] = (LAKE, "text, watermark"),
) -> dict[int, Node]:
    """The usual graph: loaders, Skipstone (2), two prompts (3, 4), a latent (5), KSampler (6), decoder (7), a picture (8).

    Args:
        loaders: nodes.
        latent: an empty one.
        sampler: KSampler's widgets.
        clip: output of the text encoder.
        vae: output of the VAE.
        model: output of the model.
        note: what to do.
        prompts: positive and negative.
    """
    return {
        **loaders,
        2: Node("SkipstoneAuto", (400, 120), (300, 290), AUTO, {"model": model}),
        3: Node("CLIPTextEncode", (730, 460), (340, 130), prompts[:1], {"clip": clip}, "Positive"),
        4: Node("CLIPTextEncode", (730, 640), (340, 100), prompts[1:], {"clip": clip}, "Negative"),
        5: latent,
        6: Node(
            "KSampler", (730, 120), (340, 290), sampler,
            {"model": (2, 0), "positive": (3, 0), "negative": (4, 0), "latent_image": (5, 0)},
        ),
        7: Node("VAEDecode", (1110, 120), (290, 60), (), {"samples": (6, 0), "vae": vae}),
        8: Node("SaveImage", (1110, 240), (290, 390), ("skipstone",), {"images": (7, 0)}),
        9: note,
    }  # fmt: skip


def empty_latent(kind: str, *size: int) -> Node:
    """An empty latent.

    Args:
        kind: the node's class.
        size: its widgets.
    """
    return Node(kind, (40, 560), (330, 120), size)


def checkpoint(name: str, place: str, what: str, size: int, cfg: float, *notes: str) -> dict[int, Node]:
    """The usual graph of a checkpoint.

    Args:
        name: of the file.
        place: repository and folder of it.
        what: to choose, in the note.
        size: of the picture, in pixels.
        cfg: of the sampler.
        notes: after the first line of the note; by default how to read and try.
    """
    loader = Node("CheckpointLoaderSimple", (40, 120), (330, 110), (name,), files=file_of(name, "checkpoints", place))
    note = note_of(f"**1.** Choose {what} above.", *(notes or (READ, TRY)), top=290)
    latent = replace(empty_latent("EmptyLatentImage", size, size, 1), at=(40, 680))
    return sampled({1: loader}, latent, (1, 25, cfg, "dpmpp_2m", "simple", 1.0), (1, 1), (1, 2), (1, 0), note)


def shifted(made: dict[int, Node], kind: str, shift: float) -> dict[int, Node]:
    """With the model's own node of the noise schedule before Skipstone.

    Args:
        made: the usual graph.
        kind: class of that node.
        shift: its widget.
    """
    made[13] = Node(kind, (400, 120), (300, 70), (shift,), {"model": (1, 0)})
    made[2] = replace(made[2], at=(400, 240), links={"model": (13, 0)})
    return made
