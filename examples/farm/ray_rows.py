"""Ray Data over many machines: paths as rows, each actor keeps its model.

    pip install 'ray[data]'
    python examples/farm/ray_rows.py scans/ restored/ --actors 8 --gpus 1

Rows hold paths, not pixels: the actors read and write the files themselves (on a shared file system), so that depth,
profile and metadata survive; what comes back is one report row per image. A bad image is a row that says so, never
an exception, since one would end the whole data set.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from varestorer_cli import RestoreOptions, Restorer
from varestorer_cli.core.inputs.plan import plan_for
from varestorer_cli.core.report.csv_file import ReportFile
from varestorer_cli.core.report.rows import Row


class RestoreRows:
    """An actor: restores the images of a batch of rows ``{"path": ...}``, returns their report rows as columns."""

    def __init__(self, output: str, model: str = "auto") -> None:
        self.output = output
        self.restorer = Restorer(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """One call for one batch; Ray hands columns over and takes columns back."""
        paths = [str(path) for path in batch["path"]]
        rows = self.restorer.restore(paths, self.output, report=False).rows
        columns = Row().values().keys()
        return {name: [row.text()[name] for row in rows] for name in columns}


def main(words: list[str] | None = None) -> int:
    """Plan here, restore in the actors, write one report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    parser.add_argument("--batch", type=int, default=8, help="images per call")
    options = parser.parse_args(words)

    import ray

    # Found and checked once, here: clashes are refused before any work. The form root/./key keeps the folders.
    plan = plan_for([str(Path(options.input).absolute())], options.output, RestoreOptions())
    rows = ray.data.from_items([{"path": job.feed} for job in plan.jobs]).map_batches(
        RestoreRows,
        fn_constructor_args=(str(Path(options.output).absolute()), options.model),
        batch_size=options.batch,
        concurrency=options.actors,
        num_gpus=options.gpus,
    )
    report = ReportFile(Path(options.output) / "metrics.csv")
    report.open()
    failed = 0
    for cells in rows.iter_rows():
        row = Row.from_cells(cells)
        failed += row.status == "failed"
        report.add(row)
    report.close()
    sys.stderr.write(f"{len(plan.jobs)} images, {failed} failed; report: {report.path}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
