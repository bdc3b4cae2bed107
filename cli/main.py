"""The `skipstone` command: one options dataclass and one function per subcommand, imported when it is called."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..core.errors import SkipstoneError, reason_of, shown_path

NEEDS_CLI = "the command line needs tyro and rich: pip install 'skipstone[cli]'"


@dataclass(frozen=True)
class Command:
    """Where a subcommand is defined.

    Args:
        help: one line.
        module: below the package.
        options: name of the options dataclass.
        run: name of the function that runs them.
        knows_line: the function also takes the command line, to store it with its figures.

    Example:
        >>> COMMANDS["blocks"].options
        'Blocks'
    """

    help: str
    module: str
    options: str
    run: str
    knows_line: bool = False


COMMANDS: dict[str, Command] = {
    "demo": Command("draw with the shipped model, dense and accelerated", ".cli.demo", "DemoOptions", "demo"),
    "bench tokens": Command(
        "time token merging beside its peers", ".lab.bench.tokens", "TokenBench", "run_token_bench", True
    ),
    "bench speed": Command(
        "time whole pictures and videos on models of full size",
        ".lab.bench.speed",
        "SpeedBench",
        "run_speed_bench",
        True,
    ),
    "bench blocks": Command(
        "time merging and pruning on one real-size block of Flux, Qwen-Image or Wan",
        ".lab.bench.blocks",
        "BlockBench",
        "run_block_bench",
        True,
    ),
    "bench skips": Command(
        "time block skipping on a whole U-Net beside DeepCache",
        ".lab.bench.skips",
        "SkipBench",
        "run_skip_bench",
        True,
    ),
    "bench fidelity": Command(
        "compare pictures at equal multiply-adds",
        ".lab.bench.fidelity",
        "FidelityBench",
        "run_fidelity_bench",
        True,
    ),
    "bench masks": Command(
        "compare trained masks with rules and fewer steps", ".lab.bench.masks", "MaskBench", "run_mask_bench", True
    ),
    "bench calls": Command(
        "compare forecast calls with fewer steps and with peers",
        ".lab.bench.calls",
        "CallBench",
        "run_call_bench",
        True,
    ),
    "bench joint": Command(
        "compare calls and merging together with calls alone, at a full-size model's cost",
        ".lab.bench.joint",
        "JointBench",
        "run_joint_bench",
        True,
    ),
    "reproduce": Command(
        "draw a paper's experiment on its own model, our figures beside the paper's",
        ".cli.reproduce",
        "Reproduce",
        "reproduce",
        True,
    ),
    "bench field": Command(
        "compare all of it with the whole field: one table, one page",
        ".lab.bench.field.bench",
        "FieldBench",
        "run_field_bench",
        True,
    ),
    "calibrate pairs": Command(
        "measure pair drift on your model, write checkpoints", ".cli.calibrate", "CalibratePairs", "calibrate_pairs"
    ),
    "search plot": Command("show the figures of a finished search", ".cli.search", "PlotSearch", "plot_search"),
    "search": Command("search schedules for your model, write recipes", ".cli.search", "Search", "run_search", True),
    "profile": Command("measure a model, choose which steps to run", ".cli.profile", "MakeProfile", "make_profile"),
    "plan": Command("print the steps that run by a profile", ".cli.plan", "Plan", "show_plan"),
    "train-mask": Command("train a block mask on your model", ".cli.train_mask", "TrainMask", "train_mask"),
    "blocks": Command("print the blocks of a model", ".cli.mask", "Blocks", "show_blocks"),
    "mask make": Command("write a mask by a rule", ".cli.mask", "MakeMask", "make_mask"),
    "mask show": Command("print or draw a mask file", ".cli.mask", "ShowMask", "show_mask"),
    "mask check": Command("check whether a mask fits a model", ".cli.mask", "CheckMask", "check_mask"),
    "mask convert": Command("map a mask to another number of calls", ".cli.mask", "ConvertMask", "convert_mask"),
    "recipe show": Command("print a recipe file or preset", ".cli.recipe", "ShowRecipe", "show_recipe"),
    "recipe check": Command("check whether a recipe file can run", ".cli.recipe", "CheckRecipe", "check_recipe"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after `skipstone`; those of this process if None.

    Returns the exit code: 0; 2 for an error, printed in one line; 130 for Ctrl-C.

    Example:
        >>> main(["recipe", "check", "ca_tome"])
        ca_tome: can run, runs token_merge
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = _command(words)
    if name is None:
        return _overview(words)
    try:
        _run(name, words[len(name.split()) :])
    except SkipstoneError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing(error))
    except OSError as error:
        return _fail(_system(error))
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    return 0


def _command(words: list[str]) -> str | None:
    return next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)


def _run(name: str, words: list[str]) -> None:
    tyro = _tyro()
    command = COMMANDS[name]
    module = import_module(command.module, __package__.rpartition(".")[0])
    prog = f"skipstone {name}"
    options = tyro.cli(getattr(module, command.options), args=words, prog=prog, description=command.help)
    extra = {"command": shlex.join([*prog.split(), *words])} if command.knows_line else {}
    getattr(module, command.run)(options, **extra)


def _tyro() -> Any:
    try:
        import rich  # noqa: F401
        import tyro
    except ModuleNotFoundError:
        raise SkipstoneError(NEEDS_CLI) from None
    return tyro


def _overview(words: list[str]) -> int:
    """The list of commands, or of those of a group; to stderr and with code 2 when what was asked for is none of them."""
    group = {name: command for name, command in COMMANDS.items() if words and name.startswith(f"{words[0]} ")}
    asked = all(word in ("-h", "--help") for word in words[bool(group) :])
    shown, stream = (group or COMMANDS) if asked else COMMANDS, sys.stdout if asked else sys.stderr
    if not asked:
        print(f"skipstone: no command {' '.join(words[:2])!r}", file=stream)
    width = max(map(len, shown))
    print("usage: skipstone COMMAND [options]; COMMAND --help lists its options\n", file=stream)
    for name, command in shown.items():
        print(f"  {name:{width}}  {command.help}", file=stream)
    return 0 if asked else 2


def _missing(error: ModuleNotFoundError) -> str:
    return f"{error.name} is not installed: pip install 'skipstone[demo]' installs everything that the commands use"


def _system(error: OSError) -> str:
    where = "" if error.filename is None else f"{shown_path(error.filename)}: "
    return f"{where}{reason_of(error)}: check the path, its permissions and the free space"


def _fail(line: str, code: int = 2) -> int:
    print(f"skipstone: {line}", file=sys.stderr)
    return code
