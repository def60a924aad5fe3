"""``make mutate``: change the code in small ways and see whether its tests notice. A tool of its own, no test.

cosmic-ray makes the changes, in a copy of the repository. Of all possible ones so many are drawn (from a seed) as fit
the bound; each is tried with the tests that belong to the changed file. Survivors are printed: each is a missing test,
or makes no difference. Tests run in a fork of this process, which has imported what is slow to import.

    python tests/mutate.py --count 40 models/varestorer_models varestorer_cli/core/engine varestorer_cli/core/training
    python tests/mutate.py --count 40 --tests tests/core/engine -- varestorer_cli/core/engine/tile_check.py
"""

import argparse
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".mypy_cache", ".ruff_cache")
# `a | b` in this code is nearly always a type; changing it breaks the import and tells nothing about the tests.
_NO_OPERATORS = "BitOr"
_MODELS, _ENGINE, _TRAINING = (
    "models/varestorer_models/",
    "varestorer_cli/core/engine/",
    "varestorer_cli/core/training/",
)
# Tests of a file beside test_NAME.py of its room.
_TESTS = {
    _MODELS + "transformer_config.py": ["models/test_transformer.py"],
    _MODELS + "layers.py": ["models/test_transformer.py", "models/test_pinned_pixels.py"],
    _MODELS + "attention.py": ["models/test_transformer.py"],
    _MODELS + "condition.py": ["models/test_transformer.py"],
    _MODELS + "tokenizer.py": ["models/test_restorer.py", "models/test_pinned_pixels.py"],
    _MODELS + "first_stage.py": ["models/test_restorer.py", "models/test_pinned_pixels.py"],
    _MODELS + "conv_restorer.py": ["models/test_pinned_pixels.py"],
    _MODELS + "released_keys.py": ["models/test_convert.py"],
    _MODELS + "meta_init.py": ["bench/test_gpu.py"],
    _TRAINING + "data/": ["core/training/data"],
    _TRAINING + "fsdp.py": ["core/training/test_distributed.py"],
    _TRAINING + "tool_options.py": ["core/training/test_average.py", "commands/test_options.py"],
    _MODELS: ["models/test_pinned_pixels.py"],
    _ENGINE: ["core/engine"],
    _TRAINING: ["core/training/test_recipe.py"],
}


def main() -> None:
    """Draw changes, try each, print what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="files or folders of code")
    parser.add_argument("--tests", nargs="*", default=[], help="tests that should notice, else those of each file")
    parser.add_argument("--count", type=int, default=30, help="changes to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one change")
    parser.add_argument("--minutes", type=float, default=60, help="begin no change after so many; the order is random")
    parser.add_argument("--only", nargs="*", type=int, help="of the drawn changes only those of these numbers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
        os.chdir(tree)
        sys.path[:0] = [str(tree), str(tree / "models"), str(tree / "tests")]
        Path("mutate.toml").write_text(
            f"[cosmic-ray]\nmodule-path = {asked.paths!r}\ntimeout = 1\nexcluded-modules = []\n"
            'test-command = "false"\n[cosmic-ray.distributor]\nname = "local"\n'
        )
        program = str(Path(sys.executable).with_name("cosmic-ray"))
        subprocess.run([program, "init", "mutate.toml", "mutate.sqlite"], check=True)
        _import_what_is_slow()
        drawn = _drawn(asked.count, asked.seed)
        tried: Counter[str] = Counter()
        survived: Counter[str] = Counter()
        until = time.monotonic() + 60 * asked.minutes
        for number in range(len(drawn)) if asked.only is None else asked.only:
            if time.monotonic() > until:
                break
            folder = drawn[number].module_path.parent.as_posix()
            tried[folder] += 1
            survived[folder] += not _noticed(number, drawn[number], asked.tests, asked.timeout)
        for folder in sorted(tried):
            sys.stdout.write(f"{folder}: {survived[folder]} of {tried[folder]} survived\n")
        total = survived.total()
        sys.stdout.write(f"{total} of {tried.total()} survived ({total / max(1, tried.total()):.0%})\n")


def tests_of(path: str) -> list[str]:
    """Tests that should notice a change of this file: the one of its name first."""
    room = path.removeprefix("varestorer_cli/").replace("models/varestorer_models/", "models/")
    own = str(Path(room).with_name(f"test_{Path(path).name}"))
    others = [name for start, names in _TESTS.items() if path.startswith(start) for name in names]
    found = [f"tests/{name}" for name in dict.fromkeys([own, *others]) if Path("tests", name).exists()]
    return [name for name in found if not any(name.startswith(f"{other}/") for other in found)]


def _drawn(count: int, seed: int) -> list[Any]:
    """Changes to try, in random order, so that a part of them is a sample too."""
    from cosmic_ray.work_db import use_db

    with use_db("mutate.sqlite") as database:
        changes = [item.mutations[0] for item in database.pending_work_items]
    changes = sorted((change for change in changes if _NO_OPERATORS not in change.operator_name), key=_place)
    sys.stdout.write(f"{min(count, len(changes))} of {len(changes)} possible changes\n")
    return random.Random(seed).sample(changes, min(count, len(changes)))


def _place(change: Any) -> tuple[str, Any, str, int]:
    """Order of possible changes that does not depend on the identifiers drawn for them."""
    return change.module_path.as_posix(), change.start_pos, change.operator_name, change.occurrence


def _noticed(number: int, change: Any, tests: list[str], timeout: float) -> bool:
    """Whether a test fails with this change; one that only makes them slow is told as such, and counts."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import use_mutation

    path = change.module_path.as_posix()
    operator = cosmic_ray.plugins.get_operator(change.operator_name)(**getattr(change, "operator_args", {}))
    before = Path(path).read_text().splitlines()
    with use_mutation(change.module_path, operator, change.occurrence):
        after = Path(path).read_text().splitlines()
        started = time.monotonic()
        outcome = _outcome(tests or tests_of(path), timeout)
    where = f"{path}:{change.start_pos[0]} {change.operator_name.removeprefix('core/')}"
    took = time.monotonic() - started
    sys.stdout.write(f"{number} {outcome} {where} ({took:.0f} s)\n")
    if outcome == "SURVIVED":
        for line in difflib.unified_diff(before, after, lineterm="", n=0):
            if line[0] in "+-" and line[:3] not in ("+++", "---"):
                sys.stdout.write(f"    {line[0]} {line[1:].strip()}\n")
    sys.stdout.flush()
    return outcome != "SURVIVED"


def _outcome(tests: list[str], timeout: float) -> str:
    """Run tests in a fork: "noticed", "too slow" or "SURVIVED"."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        sink = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(sink, descriptor)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "noticed" if os.waitstatus_to_exitcode(status) else "SURVIVED"
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow"


def _import_what_is_slow() -> None:
    """Nothing of this project: a change must take effect."""
    import cv2  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch.utils.flop_counter

    sys.dont_write_bytecode = True
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
