"""Every command line of README and docs is one: restore, train and distill as far as --dry-run, the rest as parsed."""

import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
from conftest import Ran, photo, save

from varestorer_cli.app import COMMANDS, run
from varestorer_cli.core.errors import ExitCode
from varestorer_cli.core.training import run as run_module

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Ran]
# What is called instead of work that a test cannot do: downloads, installed weights, data sets.
INSTEAD = {
    "score": ("varestorer_cli.core.score.run.run_score", ExitCode.OK),
    "--merge": ("varestorer_cli.core.restore.run.run_merge", ExitCode.OK),
    "restore": ("varestorer_cli.core.restore.run.run_restore", SimpleNamespace(exit_code=lambda most: ExitCode.OK)),
    "pull": ("varestorer_cli.core.install.puller.pull", None),
    "import": ("varestorer_cli.core.install.importer.import_files", None),
    "texts": ("varestorer_cli.core.training.encode_captions.make_features", None),
    "average": ("varestorer_cli.core.training.average.average_models", None),
    "dial": ("varestorer_cli.core.training.average.make_dial", None),
    "runs": ("varestorer_cli.core.training.runs_report.compare_runs", None),
}


def documented() -> list[str]:
    """Command lines without ``varestorer``, in blocks and in sentences; continued lines joined, remarks dropped.

    Lines with dots, and sentences' with words in capitals, are outlines.
    """
    lines = []
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]:
        if path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        lines += re.findall(r"^(?:.*-m varestorer_cli|varestorer) (\S.*)$", text, re.MULTILINE)
        spans = [" ".join(span.split()) for span in re.findall(r"`varestorer ([a-z][^`]*)`", text)]
        lines += [span for span in spans if " " in span and not re.search(r"\[|\b[A-Z]{2,}\b", span)]
    commands = [line.partition(" #")[0].strip() for line in lines if "..." not in line]
    return list(dict.fromkeys(line for line in commands if line.split()[0] in COMMANDS))


LINES = documented()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("line", LINES)
def test_every_documented_command_is_one(line: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    command, _, printed = line.partition(" > ")
    words = shlex.split(command)
    for name in ("in", "scans"):
        save(Path(name) / "a.png", photo())
    save(Path("photo.png"), photo()).rename("photo.jpg")
    for option, name in itertools.pairwise(words):
        if option == "--config":
            Path(name).touch()
    if words[0] in ("train", "distill") and not printed and words[1] not in INSTEAD:
        asked: list[Any] = []
        estimate = lambda *given: asked.append(given) or SimpleNamespace(lines=lambda: [])  # type: ignore[func-returns-value] # noqa: E731
        monkeypatch.setattr(run_module, "estimate", estimate)
        assert run([*words, "--dry-run"]) == 0 and asked, "networks are built by tests of their own"
    elif words[0] == "restore" and not {"--model", "--watch", "--merge"} & set(words):
        ran = cli(*words, "--dry-run", model=fakes.Noisy() if "--compat" in words else fakes.FakeModel())
        assert ran.code == 0, ran.err
    else:
        called: list[Any] = []
        name = next((word for word in reversed(words[:2]) if word in INSTEAD), "")
        if name:
            target, answer = INSTEAD[name]
            monkeypatch.setattr(target, lambda *args, **kwargs: called.append(args) or answer)  # type: ignore[func-returns-value]
        assert run(words) == 0
        assert called or not name


def test_the_documents_have_commands() -> None:
    found = {line.split()[0] for line in LINES}
    assert {"restore", "score", "train", "distill", "weights", "texts", "runs"} <= found and len(LINES) > 30
    assert any("--texts" in line for line in LINES)
