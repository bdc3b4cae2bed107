"""Files are whole or absent: a failed write leaves the earlier file, no part file, and one line."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from skipstone.core.errors import FileError
from skipstone.core.files import make_folder, whole_file, write_figure, write_json, write_safetensors, write_text
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

LONG = "x" * 200_000


def mask(calls: int = 2) -> Mask:
    return Mask(np.ones((calls, 1), dtype=bool), "DiT", ("b0",), tuple(range(calls, 0, -1)), provenance={"by": LONG})


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, LONG),
    "json": lambda path: write_json(path, LONG),
    "safetensors": lambda path: write_safetensors(path, {"w": torch.zeros(50_000)}, {}),
    "recipe": lambda path: Recipe(merge=TokenMerge(checkpoints=range(100_000, 110_000))).save(path),
    "mask": lambda path: mask().save(path),
}


@pytest.fixture(params=list(WRITERS))
def write(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Each way of writing a file of about 200 kB."""
    return WRITERS[request.param]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system needs root on Linux")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def short_files() -> Iterator[None]:
    """Files may not grow past 64 kB: what a full disk or a quota does, without root."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(write: Callable[[Path], None], path: Path) -> str:
    with pytest.raises(FileError) as caught:
        write(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 300 and "cannot write" in text and "choose a folder" in text
    return text


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(write: Callable[[Path], None], small_disk: Path) -> None:
    target = small_disk / "kept"
    target.write_text("earlier")
    assert "No space left" in refused(write, target)
    assert target.read_text() == "earlier" and os.listdir(small_disk) == ["kept"]


def test_a_write_cut_short_leaves_the_earlier_file_and_nothing_else(
    write: Callable[[Path], None], short_files: None, tmp_path: Path
) -> None:
    target = tmp_path / "kept"
    target.write_text("earlier")
    assert "File too large" in refused(write, target)
    assert target.read_text() == "earlier" and os.listdir(tmp_path) == ["kept"]


def test_a_read_only_disk_is_refused_in_one_line(write: Callable[[Path], None], small_disk: Path) -> None:
    (small_disk / "kept").write_text("earlier")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "Read-only" in refused(write, small_disk / "kept")
    assert (small_disk / "kept").read_text() == "earlier"


def test_a_folder_without_write_permission_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refused(write, tmp_path / "x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("name", ["missing/x", "file/x", "folder", "a\0b", "n" * 5000, "lone\ud800"])
def test_paths_that_cannot_be_written_are_refused_in_one_line(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refused(write, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_written_file_replaces_the_earlier_one_through_a_link(write: Callable[[Path], None], tmp_path: Path) -> None:
    target, link = tmp_path / "kept", tmp_path / "link"
    target.write_text("earlier")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.stat().st_size > 60_000 and len(os.listdir(tmp_path)) == 2


def test_an_interrupt_leaves_the_earlier_file(tmp_path: Path) -> None:
    target = tmp_path / "kept.png"
    target.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as part:
        assert part.suffix == ".png"
        part.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "earlier" and os.listdir(tmp_path) == ["kept.png"]


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    refused(lambda path: make_folder(path), tmp_path / "file" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_figure_that_fails_half_way_leaves_the_earlier_file(tmp_path: Path) -> None:
    class Failing:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_bytes(b"half")
            raise OSError("No space left on device")

    path = tmp_path / "curve.png"
    path.write_bytes(b"earlier")
    with pytest.raises(FileError, match="No space left"):
        write_figure(path, Failing(), 100)
    assert path.read_bytes() == b"earlier" and [p.name for p in tmp_path.iterdir()] == ["curve.png"]


@pytest.mark.parametrize("room", ["core", "lab", "cli"])
def test_every_file_is_written_whole_through_one_place(room: str) -> None:
    """`savefig`, `write_text` and `write_bytes` write in place: a full disk would leave half a file."""
    root = Path(__file__).resolve().parents[1]
    found = {
        str(path.relative_to(root)): node.func.attr
        for path in (root / room).rglob("*.py")
        if path.name != "files.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("savefig", "write_text", "write_bytes")
    }
    assert found == {}
