"""Broken input for every parser: it is accepted, or refused by a SkipstoneError of one printable line under 400 characters.

    python tests/reliability/fuzz.py --inputs 100000

Inputs are valid ones with some changes: bytes flipped, cut, repeated or replaced, and values of JSON replaced by others. Any other
exception, a message that is not one such line, or an input that takes more than two seconds is a fault.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from skipstone.core.calibrate.masks.checkpoint import read_checkpoint  # noqa: E402
from skipstone.core.calibrate.search.report import load as load_search  # noqa: E402
from skipstone.core.errors import SkipstoneError  # noqa: E402
from skipstone.core.forecast.profile import Profile  # noqa: E402
from skipstone.core.recipe.block_skip import parse_depths  # noqa: E402
from skipstone.core.recipe.checkpoint_lists import parse_checkpoints  # noqa: E402
from skipstone.core.recipe.mask import Mask  # noqa: E402
from skipstone.core.recipe.presets import as_recipe, preset, preset_names  # noqa: E402
from skipstone.core.recipe.recipe import Recipe  # noqa: E402

LONGEST = 400
SLOWEST_S = 2.0
ODD = (
    "",
    "\0",
    "\ud800",
    "\u2028",
    "<img src=x>",
    "x" * 3000,
    "NaN",
    "-1",
    "1e999",
    "9" * 400,
    "{}",
    "[]",
    "null",
    "é",
    "\n",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    0.5,
    1e308,
    10**30,
    "",
    "x",
    "x" * 3000,
    [],
    {},
    [[]],
    [None],
    [0] * 500,
    {"a": 1},
)


@dataclass
class Parser:
    """One way into the software.

    Args:
        name: in the figures.
        valid: inputs that are accepted.
        parse: reads one; a text, or bytes of a file.
    """

    name: str
    valid: list[Any]
    parse: Callable[[Any], Any]


def parsers(folder: Path) -> list[Parser]:
    """All of them. folder: for files."""
    profile = next((ROOT / "lab" / "demo_models" / "profiles").glob("*.safetensors")).read_bytes()
    training = (ROOT / "tests" / "core" / "calibrate" / "masks" / "checkpoints" / "search.safetensors").read_bytes()
    recipes = [preset(name).to_json() for name in preset_names()]
    search = {"stage": "depths", "calls": 20, "metric_label": "error", "rows": [{"name": "a", "cost": 0.5, "error": 0.1}],
              "front": [0], "tried": []}  # fmt: skip
    return [
        Parser("recipe, text", recipes, Recipe.from_json),
        Parser("recipe, name or text", [*preset_names(), "2x", *recipes[:2]], as_recipe),
        Parser("recipe, file", [text.encode() for text in recipes], in_file(folder / "a.json", Recipe.load)),
        Parser("list of checkpoints", ["0, 8, 11", "every", "config_3"], parse_checkpoints),
        Parser("list of depths", ["12 0 1 1", "0,1,2"], parse_depths),
        Parser("mask, file", [mask_file()], in_file(folder / "a.safetensors", Mask.load)),
        Parser("profile, file", [profile], in_file(folder / "p.safetensors", Profile.load)),
        Parser("training, file", [training], in_file(folder / "t.safetensors", read_checkpoint)),
        Parser(
            "search, file",
            [json.dumps(search).encode()],
            in_file(folder / "search.json", lambda p: load_search(p.parent)),
        ),
        *web_ui_parsers(),
    ]


def web_ui_parsers() -> list[Parser]:
    """The panel's arguments and pasted infotext. Infotext never raises at all."""
    from skipstone.a1111_extension.infotext import read_infotext
    from skipstone.a1111_extension.settings import PanelSettings

    arguments = [json.dumps({"enabled": True, "threshold": 0.8}), json.dumps([True, 0.7, "config_3", ""]),
                 json.dumps({"enabled": True, "level": "balanced", "speedup": 1.8})]  # fmt: skip
    pasted = [json.dumps({"Skipstone threshold": "0.7", "Skipstone checkpoints": "config_3"}),
              json.dumps({"Skipstone level": "fast", "Skipstone speedup": "2.5"}),
              json.dumps({"Skipstone recipe": preset("ca_tome").to_json()})]  # fmt: skip

    def from_arguments(text: str) -> Any:
        value = plain(text)
        return PanelSettings.of_args(value if isinstance(value, list) else [value]).as_recipe()

    def from_infotext(text: str) -> Any:
        value = plain(text)
        params = {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}
        return [read_infotext(name)(params) for name in ("enabled", "threshold", "recipe")]

    return [Parser("web UI, arguments", arguments, from_arguments), Parser("web UI, infotext", pasted, from_infotext)]


def plain(text: str) -> Any:
    """The value that a host passes; an empty dict for what is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}


def mask_file() -> bytes:
    """A small mask."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        run = np.ones((5, 4), dtype=bool)
        run[2] = False
        Mask(run=run, family="dit", blocks=tuple("abcd"), timesteps=(900.0, 700.0, 500.0, 300.0, 100.0)).save(path)
        return path.read_bytes()


def in_file(path: Path, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """A reader of bytes."""

    def parse(content: bytes) -> Any:
        path.write_bytes(content)
        return read(path)

    return parse


def changed(valid: Any, rng: random.Random) -> Any:
    """An input that is broken somewhere."""
    if isinstance(valid, bytes):
        return changed_file(valid, rng)
    if rng.random() < 0.5 and valid.lstrip().startswith(("{", "[")):
        return json.dumps(replaced(json.loads(valid), rng))
    return cut(
        valid, rng, "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x3000)))) for _ in range(3)), ODD
    )


def changed_file(valid: bytes, rng: random.Random) -> bytes:
    """A file that is broken: anywhere, or in the header of safetensors or a JSON file, whose other parts stay valid."""
    if rng.random() < 0.4:
        return cut(valid, rng, rng.randbytes(3), tuple(text.encode("utf-8", "surrogatepass") for text in ODD))
    if valid[:1] == b"{":
        return json.dumps(replaced(json.loads(valid), rng)).encode()
    size = struct.unpack("<Q", valid[:8])[0]
    head = json.loads(valid[8 : 8 + size])
    notes = head.get("__metadata__", {})
    if rng.random() < 0.7 and notes:
        name = rng.choice(list(notes))
        inner = plain(notes[name])
        notes[name] = json.dumps(replaced(inner, rng)) if inner else rng.choice(ODD[:1] + ODD[4:])
    else:
        head = replaced(head, rng)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + valid[8 + size :]


def replaced(value: Any, rng: random.Random) -> Any:
    """JSON with one value replaced, dropped or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: replaced(value[key], rng)} | (
            {"extra": rng.choice(VALUES)} if rng.random() < 0.05 else {}
        )
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], *([replaced(value[at], rng)] * rng.choice((0, 1, 1, 1, 2))), *value[at + 1 :]]
    return rng.choice(VALUES)


def cut(valid: Any, rng: random.Random, noise: Any, odd: tuple[Any, ...]) -> Any:
    """Text or bytes with one to four small changes."""
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randint(0, len(valid)) for _ in range(2))
        middle = rng.choice((noise, rng.choice(odd), valid[a:b] * 2, valid[:0]))
        valid = valid[:a] + middle + valid[min(b, a + rng.choice((0, 1, 4, 10**9))) :]
    return valid


def fault(parser: Parser, value: Any) -> str:
    """What is wrong with the outcome; "" for nothing."""
    begun = time.perf_counter()
    try:
        parser.parse(value)
    except SkipstoneError as error:
        message = str(error)
        if not message.isprintable() or len(message) > LONGEST:
            return f"message of {len(message)} characters: {message[:200]!r}"
    except Exception:
        return traceback.format_exc()[-600:]
    return "slow" if time.perf_counter() - begun > SLOWEST_S else ""


def fuzz(inputs: int, seed: int) -> dict[str, Any]:
    """Try so many inputs, divided among the parsers.

    Args:
        inputs: how many.
        seed: of the changes.
    """
    logging.disable(logging.ERROR)
    counts, faults = dict[str, int](), []
    with tempfile.TemporaryDirectory() as folder:
        known = parsers(Path(folder))
        for place, parser in enumerate(known):
            rng = random.Random(seed * 1000 + place)
            for valid in parser.valid:
                assert not fault(parser, valid), (parser.name, valid, fault(parser, valid))
            for number in range(inputs // len(known)):
                value = changed(rng.choice(parser.valid), rng)
                if wrong := fault(parser, value):
                    faults.append({"parser": parser.name, "number": number, "input": repr(value)[:300], "fault": wrong})
                    print(json.dumps(faults[-1], indent=1), flush=True)
            counts[parser.name] = inputs // len(known)
    return {"inputs": sum(counts.values()), "parsers": counts, "faults": faults}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.time()
    result = fuzz(options.inputs, options.seed)
    seconds, faults = time.time() - begun, len(result["faults"])
    print(f"{result['inputs']} inputs to {len(result['parsers'])} parsers, {faults} faults, {seconds:.0f} s")
    return bool(result["faults"])


if __name__ == "__main__":
    sys.exit(main())
