"""`skipstone reproduce`: pictures of a paper's protocol, drawn once, in shards, and measured beside the paper's figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from processes import run_together

from skipstone.core.errors import RecipeError
from skipstone.core.measure.fidelity import frechet_distance
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.lab.reproduce import drawing, run
from skipstone.lab.reproduce.drawing import Job, Shard, draw, this_shard, times
from skipstone.lab.reproduce.protocols import DENSE, Row, protocol
from skipstone.lab.reproduce.run import Reproduce, reproduce


class Pipe:
    """Draws a picture of the seed, brighter by 10 if it is accelerated, and counts its calls."""

    def __init__(self) -> None:
        self.drawn: list[list[int]] = []

    def __call__(self, prompt, num_inference_steps, generator, output_type):
        self.drawn.append([g.initial_seed() for g in generator])
        self.steps = num_inference_steps
        return type("Output", (), {"images": [Image.new("RGB", (8, 8), (seed, 0, 0)) for seed in self.drawn[-1]]})


def test_a_stopped_run_draws_what_is_missing_only(tmp_path: Path) -> None:
    pipe, rows = Pipe(), [Row(DENSE), Row("fewer", steps=3)]
    job = Job(pipe, tmp_path, ("a",) * 4, seed=100, steps=9, batch=2)
    draw(job, rows, Shard(), lambda line: None)
    assert pipe.drawn == [[100, 101], [100, 101], [102, 103], [102, 103]] and pipe.steps == 3
    assert Image.open(job.path(rows[0], 3)).getpixel((0, 0)) == (103, 0, 0)
    job.path(rows[1], 2).unlink()
    draw(job, rows, Shard(), lambda line: None)
    assert pipe.drawn[4:] == [[102, 103]]


def test_two_processes_draw_each_picture_once(tmp_path: Path) -> None:
    pipe = Pipe()
    job = Job(pipe, tmp_path, ("a",) * 5, batch=2)
    for index in range(2):
        draw(job, [Row(DENSE)], Shard(index, 2), lambda line: None)
    assert sorted(seed for batch in pipe.drawn for seed in batch) == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / DENSE).glob("times-*.jsonl"))) == 2


def test_the_first_batch_of_a_process_is_not_timed_if_there_are_others(tmp_path: Path) -> None:
    row = Row(DENSE)
    drawing.make_folder(drawing.folder_of(tmp_path, row))

    def write(name: str, *seconds: float) -> None:
        lines = [json.dumps({"pictures": 2, "seconds": s, "report": "ran"}) for s in seconds]
        (tmp_path / DENSE / f"times-{name}.jsonl").write_text("\n".join(lines))

    write("0", 9.0, 2.0, 4.0)
    assert times(tmp_path, row) == (1.5, "ran")
    write("0", 9.0)
    assert times(tmp_path, row)[0] == 4.5


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert this_shard(cpu=True) == Shard()


@pytest.mark.parametrize("name", ["ca-tome", "dato", "dato-coco", "dit-256", "dit-512", "pixart"])
def test_every_experiment_begins_dense_and_has_rows_of_names_of_their_own(name: str) -> None:
    rows = protocol(name).rows  # type: ignore[arg-type]
    assert rows[0].name == DENSE and rows[0].recipe is None and not rows[0].peer
    folders = {drawing.folder_of(Path(), row) for row in rows}
    assert len(folders) == len(rows) > 2
    assert all(row.recipe or row.peer or row.steps for row in rows[1:])


def test_the_papers_best_list_is_what_the_paper_ran() -> None:
    row = next(row for row in protocol("ca-tome").rows if row.name == "0.7, config_3")
    merge = TokenMerge(0.7, checkpoints="config_3", bucket=1, max_downsample=1)
    assert row.recipe == Recipe.of([merge]) and row.paper["FID"] == "34.05"


def test_the_demo_model_is_drawn_and_measured_beside_the_papers_figures(tmp_path: Path) -> None:
    """References are the dense pictures themselves, so that dense has no distance to them."""
    folder = tmp_path / "drawn"
    common = {"pictures": 2, "steps": 4, "batch": 2, "folder": folder, "only": ("0.7, config_3",)}
    reproduce(Reproduce(**common, out=tmp_path / "a.json"), lambda line: None)  # type: ignore[arg-type]
    options = Reproduce(**common, references=folder / DENSE, out=tmp_path / "b.json")  # type: ignore[arg-type]
    figures = reproduce(options, lambda line: None, command="skipstone reproduce ca-tome")
    dense, merged = figures["rows"]
    assert dense["FID"] == pytest.approx(0, abs=1e-3) and dense["ssim"] == 1.0 and dense["psnr_db"] is None
    assert merged["FID"] > 0.01 and 0 < merged["ssim"] < 1 and "merged" in merged["report"]
    table = run._tables(figures)[0]
    assert dict(zip(table.header, table.rows[1], strict=True))["way"] == "0.7, config_3" and "34.05" in table.rows[1]
    pictures = [torch.tensor(list(Image.open(path).getdata())) for path in sorted(folder.glob("*/000001.png"))]
    assert not torch.equal(*pictures)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path: Path) -> None:
    for options, wanted in (
        (Reproduce(experiment="dato", model="mine"), "--prompts is missing"),
        (Reproduce(pictures=1), "2 or more"),
        (Reproduce(only=("ToMee",), folder=tmp_path / "a"), "no row 'ToMee'"),
        (Reproduce(model="mine", prompts=tmp_path, references=tmp_path), "--inception"),
    ):
        with pytest.raises(RecipeError, match=wanted) as refused:
            reproduce(options, lambda line: None)
        assert "\n" not in str(refused.value)


def test_a_folder_of_other_settings_is_not_mixed_with(tmp_path: Path) -> None:
    drawing.check_settings(tmp_path, {"steps": 4})
    options = Reproduce(folder=tmp_path, pictures=2, steps=2, only=("0.7, config_3",))
    with pytest.raises(RecipeError, match="other settings"):
        reproduce(options, lambda line: None)


def _first_measures(rank: int, out: Path) -> None:
    """The first process alone measures, when both have drawn."""
    shard = this_shard(cpu=True)
    assert (shard.index, shard.count) == (rank, 2)
    shard.wait()
    if rank == 0:
        features = torch.arange(8.0).view(4, 2) ** 2
        out.write_text(f"{frechet_distance(features + 1, features):.3f}")


def test_the_first_of_two_processes_measures_without_the_other(tmp_path: Path) -> None:
    run_together(_first_measures, tmp_path / "distance")
    assert (tmp_path / "distance").read_text() == "2.000"
