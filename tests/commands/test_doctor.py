import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

from varestorer_cli.core import doctor as diagnosis
from varestorer_cli.core.weights import root as weights

Cli = Callable[..., Ran]


def only_compact(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes the table in place: modules that are imported meanwhile keep no copy of it."""
    for name in list(weights.BUNDLED_MODELS):
        monkeypatch.delitem(weights.BUNDLED_MODELS, name)
    monkeypatch.setitem(weights.BUNDLED_MODELS, "compact", path)


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("data") / "compact.safetensors"
    path.write_bytes(b"weights")
    only_compact(path, monkeypatch)


@pytest.mark.usefixtures("bundled")
def test_all_is_well(cli: Cli) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "restore works on this machine"
    for name in ("varestorer", "packages", "cpu", "threads", "model compact", "codecs", "extra score", "extra train"):
        assert f"  {name} " in ran.out
    assert "sha256 " in ran.out


@pytest.mark.usefixtures("bundled")
def test_json(cli: Cli) -> None:
    checks = json.loads(cli("doctor", "--json").out)
    assert {"name", "level", "found", "advice"} == set(checks[0])
    assert {check["level"] for check in checks} <= {"ok", "note", "missing"}


def test_missing_weights_are_named_with_what_to_do(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    only_compact(tmp_path / "none.safetensors", monkeypatch)  # type: ignore[operator]
    ran = cli("doctor")
    assert ran.code == 3
    assert "-> reinstall varestorer, or give a model file with --model" in ran.out
    assert ran.out.splitlines()[-1] == "not usable yet: model compact"


@pytest.mark.usefixtures("bundled")
def test_torch_that_cannot_be_imported_is_a_finding(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = cli("doctor")
    assert ran.code == 3
    assert "missing  torch" in ran.out
    assert "-> pip install torch" in ran.out


def test_a_check_that_breaks_is_a_finding() -> None:
    def _gone():  # type: ignore[no-untyped-def]
        raise RuntimeError("no luck")
        yield

    (check,) = diagnosis._guarded(_gone)
    assert (check.name, check.level, check.found) == ("gone", "missing", "the check failed: no luck")
