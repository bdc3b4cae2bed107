"""Train a demo model from nothing but drawn pictures: `python -m skipstone.tools.train_demo_models --kind dit --out DIR`."""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from safetensors import safe_open
from torch.nn import functional as F

from ..core.files import make_folder, whole_file, write_json, write_safetensors
from ..lab.demo_models.classifier import accuracy, load_classifier
from ..lab.demo_models.model import load_demo, new_pipeline, pipeline_modules, save_demo
from ..lab.demo_models.pictures import CLASSES, SIZE, draw_pictures
from ..lab.demo_models.pipeline import NULL, IconPipeline, to_latents, to_pil
from .train_classifier import held_out_accuracy, save_classifier, train_classifier


@dataclass(frozen=True)
class Settings:
    """The command line."""

    out: Path
    """Folder for weights, training state, sample grids and the report."""
    kind: Literal["unet", "dit"] = "unet"
    """Which model."""
    minutes: float = 80.0
    """Wall-clock budget of the network's training; the learning rate reaches zero at its end."""
    pictures: int = 12_000
    """Drawn training pictures."""
    batch: int = 16
    lr: float = 1e-3
    warmup: int = 200
    """Steps of linear learning-rate warm-up."""
    dropout: float = 0.12
    """Share of labels replaced by the empty prompt, for classifier-free guidance."""
    ema: float = 0.998
    guidance: float = 3.0
    """Guidance scale of the sample grids and of the final evaluation."""
    snapshot_minutes: float = 5.0
    classifier_steps: int = 1500
    samples: int = 200
    """Generated pictures that the classifier judges at the end."""
    seed: int = 0


@dataclass
class Run:
    """Everything that a resumed run needs: weights, their moving average, the optimizer, how far it is."""

    pipe: IconPipeline
    optimizers: list[torch.optim.Optimizer]
    average: dict[str, torch.Tensor]
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


def log(**values: Any) -> None:
    """One line of JSON per event."""
    print(json.dumps({"at": datetime.datetime.now().strftime("%H:%M:%S"), **values}), flush=True)


def weights_of(pipe: IconPipeline) -> dict[str, torch.Tensor]:
    """The live weights by name."""
    return pipeline_modules(pipe).state_dict()


def new_run(settings: Settings) -> Run:
    """An untrained run; convolutions in channels-last, what adds to the identity at zero."""
    pipe = new_pipeline(settings.kind)
    network = pipe.network.to(memory_format=torch.channels_last)
    if settings.kind == "unet":
        network.train()
        torch.nn.init.zeros_(network.conv_out.weight)
    else:  # stays in eval mode: in training mode each block would drop labels of its own
        for last in (network.proj_out_2, *(block.norm1.linear for block in network.transformer_blocks)):
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    return Run(pipe, optimizers_for(settings, pipe), {name: w.clone() for name, w in weights_of(pipe).items()})


def optimizers_for(settings: Settings, pipe: IconPipeline) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of a transformer's blocks, AdamW for all else."""
    modules = pipeline_modules(pipe)
    matrices = {
        n for n, p in modules.named_parameters() if ".transformer_blocks." in n and p.ndim == 2 and "_embed" not in n
    }
    inner = [p for name, p in modules.named_parameters() if name in matrices]
    outer = [p for name, p in modules.named_parameters() if name not in matrices]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(outer, lr=settings.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    ]
    if inner:
        found.append(torch.optim.Muon(inner, lr=settings.lr, weight_decay=1e-2, adjust_lr_fn="match_rms_adamw"))
    return found


def save_run(run: Run, path: Path) -> None:
    """Write the whole state of `run`."""
    kept = {"weights": weights_of(run.pipe), "average": run.average}
    tensors = {f"{kind}.{name}": tensor for kind, found in kept.items() for name, tensor in found.items()}
    for which, optimizer in enumerate(run.optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{index}.{name}": tensor for name, tensor in state.items()}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, whole, {"step": str(run.step), "seconds": str(run.seconds)})


def resume_run(run: Run, path: Path) -> None:
    """Read into `run` what `save_run` wrote."""
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


def draw_timesteps(count: int, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Timesteps int64 [count] whose log-SNR is spread like that of the shifted cosine schedule.

    The linear schedule works with every sampler but spends half of its steps in near-pure noise. The log-SNR of the
    cosine schedule at time u is -2 log tan(pi u / 2); for pictures of 64 pixels it is shifted by 2 log(32 / 64), since
    flat shapes outlive more noise (Hoogeboom et al. 2023, simple diffusion, section 3.1).
    """
    noise_to_signal = ((1 - alphas_cumprod) / alphas_cumprod).log()
    wanted = 2 * (torch.rand(count) * math.pi / 2).tan().log() + 2 * math.log(SIZE / 32)
    return torch.searchsorted(noise_to_signal, wanted).clamp(max=len(alphas_cumprod) - 1)


def diffusion_loss(run: Run, pictures: torch.Tensor, labels: torch.Tensor, dropout: float) -> torch.Tensor:
    """Mean squared error of the predicted velocity for `pictures` uint8 [B, 3, 64, 64]."""
    scheduler = run.pipe.scheduler
    latents = to_latents(pictures).contiguous(memory_format=torch.channels_last)
    noise, t = torch.randn_like(latents), draw_timesteps(len(latents), scheduler.alphas_cumprod)
    labels = torch.where(torch.rand(len(labels)) < dropout, NULL, labels)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = run.pipe.predict(scheduler.add_noise(latents, noise, t), t, labels)
    return F.mse_loss(velocity.float(), scheduler.get_velocity(latents, noise, t))


def learning_rate(settings: Settings, run: Run) -> float:
    """Linear warm-up by steps, cosine decay by the share of the time budget that is spent."""
    spent = min(run.seconds / (60 * settings.minutes), 1)
    return settings.lr * min((run.step + 1) / settings.warmup, 1) * (1 + math.cos(math.pi * spent)) / 2


def update_average(run: Run, decay: float) -> None:
    """Move the averaged weights towards the live ones; young averages move faster."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    live = weights_of(run.pipe)
    torch._foreach_lerp_(list(run.average.values()), [live[name] for name in run.average], 1 - decay)


def train_step(settings: Settings, run: Run, pictures: torch.Tensor, labels: torch.Tensor) -> None:
    """One batch: loss, gradient, AdamW, average."""
    chosen = torch.randint(len(pictures), (settings.batch,))
    groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
    for group in groups:
        group["lr"] = learning_rate(settings, run)
    loss = diffusion_loss(run, pictures[chosen], labels[chosen], settings.dropout)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    run.step += 1
    update_average(run, settings.ema)
    run.losses.append(loss.item())


def record(settings: Settings, run: Run, **more: Any) -> dict[str, Any]:
    """What the weights' metadata say about their training."""
    images, date = run.step * settings.batch, datetime.date.today().isoformat()
    common = {"steps": run.step, "images": images, "batch": settings.batch, "minutes": round(run.seconds / 60, 1)}
    return {**common, "date": date, **more}


def sample(pipe: IconPipeline, settings: Settings, count: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` pictures [count, 3, 64, 64] in 0..1 and the labels that were asked for; the classes take turns."""
    generator, labels = torch.Generator().manual_seed(settings.seed), torch.arange(count) % len(CLASSES)
    pipe.set_progress_bar_config(disable=True)
    draw = partial(pipe, guidance_scale=settings.guidance, generator=generator, output_type="pt", return_dict=False)
    drawn = [draw(part, num_inference_steps=steps)[0] for part in labels.split(50)]
    return torch.cat(drawn), labels


def save_grid(pictures: torch.Tensor, path: Path) -> None:
    """Write pictures [B, 3, H, W] as a grid with one column per class."""
    rows = pictures.unflatten(0, (-1, len(CLASSES)))
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with whole_file(path) as part:
        to_pil(F.interpolate(sheet[None], scale_factor=2))[0].save(part)


def snapshot(settings: Settings, run: Run, count: int = 20, steps: int = 20) -> None:
    """Write the state, the averaged weights and a grid; log how many of its pictures the classifier names right."""
    save_run(run, settings.out / "state.safetensors")
    path = settings.out / "snapshot.safetensors"
    save_demo(settings.kind, run.average, path, record(settings, run))
    pictures, labels = sample(load_demo(path=path), settings, count, steps)
    save_grid(pictures, settings.out / f"grid_{run.step:05d}.png")
    right = accuracy(load_classifier(settings.out / "icons_classifier.safetensors"), pictures, labels)
    loss, run.losses = sum(run.losses) / max(len(run.losses), 1), []
    log(snapshot=run.step, images=run.step * settings.batch, minutes=run.seconds / 60, loss=loss, right=right)


def choose_threads(take_step: Callable[[], None]) -> None:
    """Take one step with every core and one with a single core, and stay with the faster.

    On a shared machine a starved core makes all others wait at every operator.
    """
    spent = {}
    for threads in (os.cpu_count() or 1, 1):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        take_step()
        spent[threads] = time.perf_counter() - start
    torch.set_num_threads(min(spent, key=spent.__getitem__))


def train_network(settings: Settings, run: Run, pictures: torch.Tensor, labels: torch.Tensor) -> None:
    """Train until the time budget is spent; snapshots do not count against it."""
    take_step = partial(train_step, settings, run, pictures, labels)
    next_snapshot = run.seconds + 60 * settings.snapshot_minutes
    while run.seconds < 60 * settings.minutes:
        start = time.perf_counter()
        for _ in range(98):
            take_step()
        choose_threads(take_step)
        run.seconds += time.perf_counter() - start
        loss = sum(run.losses[-100:]) / 100
        log(step=run.step, minutes=round(run.seconds / 60, 2), loss=round(loss, 4), threads=torch.get_num_threads())
        if run.seconds >= next_snapshot:
            snapshot(settings, run)
            next_snapshot = run.seconds + 60 * settings.snapshot_minutes
    save_run(run, settings.out / "state.safetensors")


def prepare_classifier(settings: Settings, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """Train and save the classifier if `out` has none yet; its held-out accuracy."""
    path = settings.out / "icons_classifier.safetensors"
    if not path.exists():
        model = train_classifier(pictures, labels, settings.classifier_steps)
        save_classifier(model, path, held_out_accuracy(model))
    held_out = held_out_accuracy(load_classifier(path))
    log(classifier_held_out_accuracy=held_out)
    return held_out


def finish(settings: Settings, run: Run, held_out: float) -> None:
    """Judge 50-step samples of the averaged weights and write these with the full record."""
    path = settings.out / f"icons_{settings.kind}.safetensors"
    save_demo(settings.kind, run.average, path, record(settings, run))
    pictures, labels = sample(load_demo(path=path), settings, settings.samples, steps=50)
    save_grid(pictures[: 6 * len(CLASSES)], settings.out / "grid_final.png")
    right = accuracy(load_classifier(settings.out / "icons_classifier.safetensors"), pictures, labels)
    judged = {"sample_accuracy": right, "samples": settings.samples, "guidance": settings.guidance}
    report = record(settings, run, classifier_held_out_accuracy=held_out, sampler="DDIM, 50 steps", **judged)
    save_demo(settings.kind, run.average, path, report)
    write_json(settings.out / "report.json", report)
    log(**report)


def main(settings: Settings) -> None:
    """Draw, train the classifier, train (or resume) the network, evaluate."""
    make_folder(settings.out)
    torch.manual_seed(settings.seed)
    pictures, labels = draw_pictures(settings.pictures, settings.seed)
    held_out = prepare_classifier(settings, pictures, labels)
    run = new_run(settings)
    state = settings.out / "state.safetensors"
    if state.exists():
        resume_run(run, state)
        torch.manual_seed(settings.seed + run.step)
    train_network(settings, run, pictures, labels)
    finish(settings, run, held_out)


if __name__ == "__main__":
    main(tyro.cli(Settings))
