"""Train a demo model from nothing but drawn pictures: `python -m skipstone.tools.train_demo_models --kind dit --out DIR`."""

from __future__ import annotations

import datetime
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import tyro
from torch.nn import functional as F

from ..core.files import make_folder, write_json
from ..lab.demo_models.captions import draw_captioned
from ..lab.demo_models.classifier import load_classifier
from ..lab.demo_models.model import DemoFlowPipeline, load_demo, save_demo
from ..lab.demo_models.pictures import CLASSES, draw_pictures
from ..lab.demo_models.pipeline import to_latents
from .judge_demo_models import Samples, names, save_grid, seen
from .noising import noised, some_tokens_loss
from .train_classifier import held_out_accuracy, save_classifier, train_classifier
from .training_run import Run, Settings, new_run, resume_run, save_run, weights_of


def log(**values: Any) -> None:
    """One line of JSON per event."""
    print(json.dumps({"at": datetime.datetime.now().strftime("%H:%M:%S"), **values}), flush=True)


def diffusion_loss(settings: Settings, run: Run, pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Mean squared error of the predicted velocity.

    Args:
        settings: of the training.
        run: under way.
        pictures: uint8 [B, 3, 64, 64].
        prompts: one for each.
    """
    x, t, wanted = noised(run.pipe.scheduler, to_latents(pictures).contiguous(memory_format=torch.channels_last))
    asked = [
        "" if drop else prompt
        for drop, prompt in zip(torch.rand(len(prompts)) < settings.dropout, prompts, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        arguments = run.pipe.encode(asked)
        if isinstance(run.pipe, DemoFlowPipeline) and run.step < settings.sparse * settings.steps:
            return some_tokens_loss(run.pipe, x, t, wanted, arguments)
        velocity = run.pipe.predict(x, t, arguments)
    return F.mse_loss(velocity.float(), wanted)


def learning_rate(settings: Settings, run: Run) -> float:
    """Linear warm-up, cosine decay to zero at the last step.

    Args:
        settings: of the training.
        run: under way.
    """
    spent = min(run.step / settings.steps, 1)
    return settings.lr * min((run.step + 1) / settings.warmup, 1) * (1 + math.cos(math.pi * spent)) / 2


def update_average(run: Run, decay: float) -> None:
    """Move the averaged weights towards the live ones; young averages move faster.

    Args:
        run: under way.
        decay: share of the average that stays.
    """
    decay = min(decay, (1 + run.step) / (10 + run.step))
    live = weights_of(run.pipe)
    torch._foreach_lerp_(list(run.average.values()), [live[name] for name in run.average], 1 - decay)


def train_step(settings: Settings, run: Run, pictures: torch.Tensor, prompts: list[str]) -> None:
    """One batch: loss, gradient, optimizers, average.

    Args:
        settings: of the training.
        run: under way.
        pictures: uint8 [N, 3, 64, 64].
        prompts: one for each.
    """
    chosen = torch.randint(len(pictures), (settings.batch,))
    groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
    for group in groups:
        group["lr"] = learning_rate(settings, run)
    loss = diffusion_loss(settings, run, pictures[chosen], [prompts[place] for place in chosen])
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    run.step += 1
    update_average(run, settings.ema)
    run.losses.append(loss.item())


def record(settings: Settings, run: Run, **more: Any) -> dict[str, Any]:
    """What the weights' metadata say about their training.

    Args:
        settings: of the training.
        run: under way.
        more: further entries.
    """
    images, date = run.step * settings.batch, datetime.date.today().isoformat()
    common = {"steps": run.step, "images": images, "batch": settings.batch, "minutes": round(run.seconds / 60, 1)}
    return {**common, "date": date, **more}


def snapshot(settings: Settings, run: Run, count: int = 20, steps: int = 20) -> None:
    """Write the state, the averaged weights and a grid; log how many of its pictures show the class that was asked for.

    Args:
        settings: of the training.
        run: under way.
        count: pictures of the grid.
        steps: with which they are sampled.
    """
    save_run(run, settings.out / "state.safetensors")
    path = settings.out / "snapshot.safetensors"
    save_demo(settings.kind, run.average, path, record(settings, run))
    pictures = Samples(load_demo(path=path), settings.guidance, settings.seed).grid(count, steps)
    save_grid(pictures, settings.out / f"grid_{run.step:05d}.png")
    loss, run.losses = sum(run.losses) / max(len(run.losses), 1), []
    right = sum(found.name == name for found, name in zip(seen(pictures), names(count), strict=True)) / count
    log(snapshot=run.step, images=run.step * settings.batch, minutes=run.seconds / 60, loss=loss, right=right)


def choose_threads(take_step: Callable[[], None], wanted: int | None) -> None:
    """Take two steps: with the wanted threads, or one with every core and one with a single core, to stay with the faster.

    On a shared machine a starved core makes all others wait at every operator.

    Args:
        take_step: takes one.
        wanted: number of threads; None to try.
    """
    spent = {}
    for threads in (wanted, wanted) if wanted else (os.cpu_count() or 1, 1):
        torch.set_num_threads(threads)
        start = time.perf_counter()
        take_step()
        spent[threads] = time.perf_counter() - start
    torch.set_num_threads(min(spent, key=spent.__getitem__))


def train_network(settings: Settings, run: Run, pictures: torch.Tensor, prompts: list[str]) -> None:
    """Train until the last step.

    Args:
        settings: of the training.
        run: under way.
        pictures: uint8 [N, 3, 64, 64].
        prompts: one for each.
    """
    take_step = partial(train_step, settings, run, pictures, prompts)
    next_snapshot = run.seconds + 60 * settings.snapshot_minutes
    while run.step < settings.steps:
        start = time.perf_counter()
        for _ in range(98):
            take_step()
        choose_threads(take_step, settings.threads)
        run.seconds += time.perf_counter() - start
        loss = sum(run.losses[-100:]) / 100
        log(step=run.step, minutes=round(run.seconds / 60, 2), loss=round(loss, 4), threads=torch.get_num_threads())
        if run.seconds >= next_snapshot:
            snapshot(settings, run)
            next_snapshot = run.seconds + 60 * settings.snapshot_minutes
    save_run(run, settings.out / "state.safetensors")


def prepare_classifier(settings: Settings) -> float:
    """Train and save the classifier if `out` has none yet; its held-out accuracy."""
    path = settings.out / "icons_classifier.safetensors"
    if not path.exists():
        pictures, labels = draw_pictures(settings.pictures, settings.seed)
        model = train_classifier(pictures, labels, settings.classifier_steps)
        save_classifier(model, path, held_out_accuracy(model))
    held_out = held_out_accuracy(load_classifier(path))
    log(classifier_held_out_accuracy=held_out)
    return held_out


def finish(settings: Settings, run: Run, held_out: float) -> None:
    """Judge samples of the averaged weights and write these with the full record.

    Args:
        settings: of the training.
        run: under way.
        held_out: accuracy of the classifier.
    """
    path = settings.out / f"icons_{settings.kind}.safetensors"
    save_demo(settings.kind, run.average, path, record(settings, run))
    samples = Samples(load_demo(path=path), settings.guidance, settings.seed)
    judged = samples.report(load_classifier(settings.out / "icons_classifier.safetensors"), settings.samples)
    save_grid(samples.grid(6 * len(CLASSES), steps=20), settings.out / "grid_final.png")
    report = record(settings, run, classifier_held_out_accuracy=held_out, **judged)
    save_demo(settings.kind, run.average, path, report)
    write_json(settings.out / "report.json", report)
    log(**report)


def main(settings: Settings) -> None:
    """Draw, train the classifier, train (or resume) the network, evaluate."""
    make_folder(settings.out)
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    held_out = prepare_classifier(settings)
    pictures, prompts = training_data(settings)
    run = new_run(settings)
    state = settings.out / "state.safetensors"
    if state.exists():
        resume_run(run, state)
        torch.manual_seed(settings.seed + run.step)
    train_network(settings, run, pictures, prompts)
    finish(settings, run, held_out)


def training_data(settings: Settings) -> tuple[torch.Tensor, list[str]]:
    """Pictures uint8 [N, 3, 64, 64] and their prompts: captions for the flow model, else class names."""
    if settings.kind == "flow":
        return draw_captioned(settings.pictures, settings.seed)
    pictures, labels = draw_pictures(settings.pictures, settings.seed)
    return pictures, [CLASSES[label] for label in labels.tolist()]


if __name__ == "__main__":
    main(tyro.cli(Settings))
