"""The `skipstone` command: what it knows, and that mistakes are one line and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipstone.cli import main as cli
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.presets import preset
from skipstone.lab.bench import tokens as bench_tokens


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_without_a_command_it_lists_them(words: list[str], capsys) -> None:
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert all(name in shown.out for name in cli.COMMANDS) and not shown.err


@pytest.mark.parametrize("words", [["bench"], ["bench", "--help"], ["recipe", "-h"]])
def test_a_group_of_commands_lists_its_own(words: list[str], capsys) -> None:
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    named = {line.split("  ")[1] for line in lines(shown.out)[2:]}
    assert named == {name for name in cli.COMMANDS if name.startswith(words[0])} and not shown.err


@pytest.mark.parametrize("words", [["bench", "it"], ["paint", "it"], ["recipe", "burn"]])
def test_what_is_no_command_is_said_with_the_list(words: list[str], capsys) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert f"no command '{' '.join(words)}'" in lines(shown.err)[0] and "recipe show" in shown.err and not shown.out


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_each_command_has_its_options_and_help(name: str, capsys) -> None:
    command = cli.COMMANDS[name]
    module = import_module(command.module, "skipstone")
    assert dataclasses.is_dataclass(getattr(module, command.options)) and callable(getattr(module, command.run))
    with pytest.raises(SystemExit) as left:
        cli.main([*name.split(), "--help"])
    assert left.value.code == 0 and f"usage: skipstone {name}" in capsys.readouterr().out


def test_recipe_show_prints_what_can_be_loaded_again(capsys, tmp_path: Path) -> None:
    assert cli.main(["recipe", "show", "balanced"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == preset("balanced").to_dict()
    file = tmp_path / "mine.json"
    file.write_text(shown)
    assert cli.main(["recipe", "check", str(file)]) == 0
    assert lines(capsys.readouterr().out) == ["balanced: can run, runs token_merge"]


def test_recipe_check_says_that_neutral_settings_change_nothing(capsys, tmp_path: Path) -> None:
    file = tmp_path / "off.json"
    file.write_text('{"skipstone": 1, "methods": [{"kind": "token_merge", "threshold": 1.0}]}')
    assert cli.main(["recipe", "check", str(file)]) == 0
    assert capsys.readouterr().out.startswith("off: can run, changes nothing")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"skipstone": 1, "methods": [{"kind": "token_merge", "threshold": 7}]}', "threshold=7 is outside [-1, 1]"),
        ('{"skipstone": 1, "methods": [{"kind": "token_merge", "treshold": 0.7}]}', "unknown key 'treshold'"),
        ('{"skipstone": 99}', "recipe format 99 is not supported"),
        ("{", "recipe is not JSON"),
    ],
)
def test_a_wrong_recipe_is_one_line_and_code_two(text: str, line: str, capsys, tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(text)
    assert cli.main(["recipe", "check", str(file)]) == 2
    shown = capsys.readouterr()
    assert len(lines(shown.err)) == 1 and shown.err.startswith("skipstone: ") and line in shown.err and not shown.out


def test_options_that_cannot_run_are_one_line_and_code_two(capsys) -> None:
    assert cli.main(["bench", "tokens", "--sizes", "500"]) == 2
    assert lines(capsys.readouterr().err) == [
        "skipstone: sizes [500] must be multiples of 8 pixels, for instance 512",
    ]


def test_the_bench_is_told_its_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def run(options: Any, command: str) -> None:
        given.update(options=options, command=command)

    monkeypatch.setattr(bench_tokens, "run_token_bench", run)
    assert cli.main(["bench", "tokens", "--sizes", "64", "128", "--runs", "5", "--out", "a b.json"]) == 0
    assert given["command"] == "skipstone bench tokens --sizes 64 128 --runs 5 --out 'a b.json'"
    assert given["options"] == bench_tokens.TokenBench(sizes=(64, 128), runs=(5,), out=Path("a b.json"))


@pytest.mark.parametrize("absent", ["tyro", "rich"])
def test_without_its_extra_the_command_names_the_remedy(absent: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert cli.main(["recipe", "show", "ca_tome"]) == 2
    assert lines(capsys.readouterr().err) == [
        "skipstone: the command line needs tyro and rich: pip install 'skipstone[cli]'"
    ]


def test_other_missing_packages_and_ctrl_c_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for error, code, line in [
        (ModuleNotFoundError("No module named 'diffusers'", name="diffusers"), 2, "diffusers is not installed"),
        (KeyboardInterrupt(), 130, "stopped"),
    ]:

        def fail(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(bench_tokens, "run_token_bench", fail)
        assert cli.main(["bench", "tokens"]) == code
        shown = lines(capsys.readouterr().err)
        assert len(shown) == 1 and line in shown[0]


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    """A mask of 3 calls for one block."""
    Mask(np.ones((3, 1), dtype=bool), "DiT", ("b0",), (900.0, 500.0, 0.0)).save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("folder", ["missing", "file"])
@pytest.mark.parametrize(
    "words",
    [
        ["mask", "make", "demo", "--calls", "3", "--out", "OUT/m.safetensors"],
        ["mask", "convert", "MASK", "--calls", "2", "--out", "OUT/m.safetensors"],
        ["mask", "show", "MASK", "--png", "OUT/m.png"],
        ["mask", "show", "MASK", "--png", "m.unknown"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_cannot_be_written_is_one_line_and_code_two(
    words: list[str], folder: str, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    there = {"OUT": str(tmp_path / folder), "MASK": str(mask_file)}
    assert cli.main([w.replace("OUT", there["OUT"]).replace("MASK", there["MASK"]) for w in words]) == 2
    shown = lines(capsys.readouterr().err)
    assert len(shown) == 1 and shown[0].startswith("skipstone: cannot write '") and len(shown[0]) < 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "m.safetensors"]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/o/ut"), OSError(28, "No space left on device")]
)
def test_trouble_with_the_disk_in_any_command_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(bench_tokens, "run_token_bench", fail)
    assert cli.main(["bench", "tokens"]) == 2
    shown = lines(capsys.readouterr().err)
    assert len(shown) == 1 and error.strerror in shown[0] and "free space" in shown[0]
    assert error.filename is None or "'/o/ut'" in shown[0]


@pytest.mark.parametrize("calls", ["0", "-5", "1000000000"])
def test_a_number_of_calls_that_no_run_has_is_refused(calls: str, mask_file: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.safetensors"
    assert cli.main(["mask", "convert", str(mask_file), "--calls", calls, "--out", str(out)]) == 2
    assert f"calls={calls} " in capsys.readouterr().err and not out.exists()


def test_errors_of_our_own_making_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench_tokens, "run_token_bench", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["bench", "tokens"])


def test_python_dash_m_is_the_command_and_listing_loads_no_torch() -> None:
    ran = subprocess.run([sys.executable, "-X", "importtime", "-m", "skipstone"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith("usage: skipstone COMMAND")
    loaded = {line.rpartition("|")[2].strip() for line in lines(ran.stderr)}
    assert "skipstone.cli.main" in loaded and not loaded & {"torch", "tyro", "diffusers", "numpy"}


def test_python_dash_m_leaves_with_the_exit_code() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "skipstone", "recipe", "check", "none.json"], capture_output=True, text=True
    )
    assert ran.returncode == 2 and len(lines(ran.stderr)) == 1 and "cannot read recipe 'none.json'" in ran.stderr
