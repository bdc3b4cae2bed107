"""The state of a demo model's training: settings, weights, their average and optimizers, written to a file and read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from ..core.files import write_safetensors
from ..lab.demo_models.model import new_pipeline, pipeline_modules
from ..lab.demo_models.pipeline import IconPipeline
from .muon import Muon


@dataclass(frozen=True)
class Settings:
    """The command line of :mod:`.train_demo_models`."""

    out: Path
    """Folder for weights, training state, sample grids and the report."""
    kind: Literal["unet", "dit", "flow"] = "unet"
    """Which model."""
    steps: int = 3500
    """Batches; the learning rate reaches zero at the last."""
    sparse: float = 0.6
    """Share of the flow model's batches, the first ones, that use a quarter of each picture's tokens: they cost a quarter."""
    pictures: int = 12_000
    """Drawn training pictures."""
    batch: int = 16
    """Pictures a step."""
    lr: float = 1e-3
    """Learning rate after the warm-up."""
    warmup: int = 200
    """Steps of linear learning-rate warm-up."""
    dropout: float = 0.12
    """Share of prompts replaced by the empty one, for classifier-free guidance."""
    ema: float = 0.998
    """Decay of the averaged weights, per step."""
    guidance: float = 3.0
    """Guidance scale of the sample grids and of the final evaluation."""
    snapshot_minutes: float = 5.0
    """Time between two snapshots."""
    classifier_steps: int = 1500
    """Batches of the classifier's training."""
    samples: int = 200
    """Generated pictures that the classifier judges at the end."""
    bf16: bool = True
    """Compute in bfloat16; some CPUs only emulate it."""
    threads: int | None = None
    """torch threads; by default the faster of one and all cores, tried again every 100 steps."""
    seed: int = 0
    """Of pictures, weights and noise."""


@dataclass
class Run:
    """Everything that a resumed run needs: weights, their moving average, the optimizer, how far it is.

    Args:
        pipe: the model.
        optimizers: each of a part of its weights.
        average: averaged weights by name.
        step: number of batches so far.
        seconds: training time so far.
        losses: of the batches since the last snapshot.
    """

    pipe: IconPipeline
    optimizers: list[torch.optim.Optimizer]
    average: dict[str, torch.Tensor]
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def weights_of(pipe: IconPipeline) -> dict[str, torch.Tensor]:
    """The live weights by name."""
    return pipeline_modules(pipe).state_dict()


def new_run(settings: Settings) -> Run:
    """An untrained run; convolutions in channels-last, what adds to the identity at zero."""
    pipe = new_pipeline(settings.kind)
    network = pipe.network.to(memory_format=torch.channels_last)
    if settings.kind == "unet":  # in training mode, a DiT's blocks would drop labels of their own
        network.train()
    for last in last_layers(network):
        for parameter in last.parameters():
            torch.nn.init.zeros_(parameter)
    return Run(pipe, optimizers_for(settings, pipe), {name: w.clone() for name, w in weights_of(pipe).items()})


def last_layers(network: Any) -> list[torch.nn.Module]:
    """The layers whose outputs are added to the identity: the network's last one, and each transformer block's modulation."""
    ends = ("conv_out", "proj_out_2", "norm1.linear", "norm1_context.linear", "norm.linear")
    found = [module for name, module in network.named_modules() if name.endswith(ends)]
    return [*found, network.proj_out] if hasattr(network, "proj_out") else found


def optimizers_for(settings: Settings, pipe: IconPipeline) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of a transformer's own blocks, AdamW for all else.

    Args:
        settings: the learning rate.
        pipe: the model.
    """
    modules = pipeline_modules(pipe)
    blocks = ("dit.transformer_blocks.", "flow.transformer_blocks.", "flow.single_transformer_blocks.")
    matrices = {n for n, p in modules.named_parameters() if n.startswith(blocks) and p.ndim == 2 and "_embed" not in n}
    inner = [p for name, p in modules.named_parameters() if name in matrices]
    outer = [p for name, p in modules.named_parameters() if name not in matrices]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(outer, lr=settings.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    ]
    if inner:
        found.append(Muon(inner, lr=settings.lr))
    return found


def save_run(run: Run, path: Path) -> None:
    """Write the whole state of a run.

    Args:
        run: to write.
        path: of the safetensors file.
    """
    kept = {"weights": weights_of(run.pipe), "average": run.average}
    tensors = {f"{kind}.{name}": tensor for kind, found in kept.items() for name, tensor in found.items()}
    for which, optimizer in enumerate(run.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": tensor for name, tensor in state.items()}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, whole, {"step": str(run.step), "seconds": str(run.seconds)})


def resume_run(run: Run, path: Path) -> None:
    """Read into a run what :func:`save_run` wrote.

    Args:
        run: of the same settings.
        path: of the safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        run.step, run.seconds = int(file.metadata()["step"]), float(file.metadata()["seconds"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    moments: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in run.optimizers]
    for key, tensor in tensors.items():
        kind, name = key.split(".", 1)
        if kind == "optimizer":
            which, index, moment = name.split(".")
            moments[int(which)].setdefault(int(index), {})[moment] = tensor
        else:
            (weights_of(run.pipe) if kind == "weights" else run.average)[name].copy_(tensor)
    for optimizer, state in zip(run.optimizers, moments, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
