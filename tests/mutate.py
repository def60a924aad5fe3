"""``make mutate``: change the code in small ways and see whether its tests notice. A tool of its own, no test.

cosmic-ray makes the changes, in a copy of the repository. Of all possible ones so many are drawn (from a seed) as fit
the bound; each is tried with the tests named. Survivors are printed: each is a missing test, or makes no difference.

    python tests/mutate.py --tests tests/core/engine --count 40 varestorer_cli/core/engine/tile_check.py
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", "*.jpg", ".mypy_cache", ".ruff_cache")


def main() -> None:
    """Draw changes, try each, print what survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", help="files or folders of code")
    parser.add_argument("--tests", nargs="+", required=True, help="tests that should notice")
    parser.add_argument("--count", type=int, default=30, help="changes to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the tests of one change")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {' '.join(asked.tests)}"
        config, session = tree / "mutate.toml", tree / "mutate.sqlite"
        config.write_text(
            f"[cosmic-ray]\nmodule-path = {asked.paths!r}\ntimeout = {asked.timeout}\nexcluded-modules = []\n"
            f'test-command = "env PYTHONPATH={tree}:{tree}/models {command}"\n'
            '[cosmic-ray.distributor]\nname = "local"\n'
        )
        _run(tree, "cosmic-ray", "init", str(config), str(session))
        drawn = _draw(session, asked.count, asked.seed)
        _run(tree, "cosmic-ray", "baseline", str(config))
        _run(tree, "cosmic-ray", "exec", str(config), str(session))
        _report(session, drawn)


def _run(tree: Path, program: str, *words: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name(program)), *words], cwd=tree, check=True)


def _draw(session: Path, count: int, seed: int) -> set[str]:
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(str(session)) as database:
        jobs = [item.job_id for item in sorted(database.pending_work_items, key=_place)]
        drawn = set(random.Random(seed).sample(jobs, min(count, len(jobs))))
        for job in jobs:
            if job not in drawn:
                database.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="not drawn"))
    sys.stdout.write(f"{len(drawn)} of {len(jobs)} possible changes\n")
    return drawn


def _place(item: Any) -> tuple[str, Any, str, int]:
    """Order of possible changes that does not depend on the identifiers drawn for them."""
    change = item.mutations[0]
    return change.module_path.as_posix(), change.start_pos, change.operator_name, change.occurrence


def _report(session: Path, drawn: set[str]) -> None:
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome

    survived = 0
    with use_db(str(session)) as database:
        for item, result in database.completed_work_items:
            if item.job_id in drawn and result.test_outcome == TestOutcome.SURVIVED:
                survived += 1
                sys.stdout.write(f"survived: {item.mutations[0].module_path}:{item.mutations[0].start_pos[0]}\n")
                sys.stdout.write(f"{result.diff or ''}\n")
    sys.stdout.write(f"{survived} of {len(drawn)} survived ({survived / max(1, len(drawn)):.0%})\n")


if __name__ == "__main__":
    main()
