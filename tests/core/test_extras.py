import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from varestorer_cli.core import extras
from varestorer_cli.core.extras import EXTRAS, install_command, is_installed, missing_modules


def test_an_extra_is_installed_where_all_its_modules_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "scipy" else object())
    assert missing_modules("score") == ["scipy"] and not is_installed("score")
    assert is_installed("vfx")


def test_the_command_names_packages_that_exist_and_not_varestorer(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.6", "pyiqa>=0.1; extra == 'score'", 'scipy; extra == "score"', "x==1; extra == 'score2'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert install_command("score") == "pip install 'pyiqa>=0.1' scipy"
    assert install_command("other") == "pip install '.[other]' in the folder of varestorer's source"

    def gone(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", gone)
    assert "'.[score]' in the folder" in install_command("score")


ROOT = Path(__file__).parents[2]


def test_no_advice_sends_people_to_a_name_in_an_index() -> None:
    """The name varestorer is not registered: whoever registers it would be installed."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("varestorer_cli/**/*.py"), ROOT / "Makefile"]
    assert len(texts) > 100
    for path in texts:
        text = path.read_text(encoding="utf-8")
        if path.name == "CHANGELOG.md":
            continue
        assert not re.search(r"(?:pip|pipx|uv)\b[^\n|]* install (?:-[\w-]+ )*['\"]?varestorer\b", text), path
        assert "'varestorer[" not in text, path


def test_extras_named_in_code_and_documents_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named_extras = set()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("varestorer_cli/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        named_extras |= set(re.findall(r"install_command\(['\"](\w+)['\"]\)", text))
        named_extras |= {name for found in re.findall(r"'\.\[([\w,]+)\]'", text) for name in found.split(",")}
    known = set(project["optional-dependencies"])
    assert {"score", "text", "vfx", "hub"} <= named_extras <= known
    assert EXTRAS.keys() <= known
