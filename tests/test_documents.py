"""What README and docs tell people to type or to look at is there: commands, targets, extras, modules, files."""

import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.test_boundaries import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES if path.name != "CHANGELOG.md"]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
TARGETS |= {"test-lowest", "test-newest"}  # of one pattern rule
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"].keys()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for found in BLOCK.finditer((ROOT / name).read_text(encoding="utf-8")):
        yield found[1], found[2]


def spans(name: str) -> list[str]:
    """Inline code, without the fenced blocks."""
    text = BLOCK.sub("", (ROOT / name).read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def problem(command: str) -> str | None:
    """What is wrong with a command, None for nothing; varestorer's own are run by tests/commands/test_documented.py."""
    if found := re.match(r"make ([\w-]+)", command):
        return None if found[1] in TARGETS else f"no target {found[1]}"
    if found := re.search(r"(?:pip|pipx|uv tool|uv pip) install .*'?\.\[([\w,]+)\]", command):
        unknown = set(found[1].split(",")) - EXTRAS
        return f"no extra {unknown}" if unknown else None
    if found := re.search(r"-m (varestorer_cli[\w.]*)", command):
        return None if find_spec(found[1]) else f"no module {found[1]}"
    if re.match(r"(pip|pipx|uv|conda|docker|apt-get|python -m venv|ffmpeg|sbatch) ?", command):
        return None
    return None if re.match(r"([A-Z_]+=\S+ )?varestorer [a-z]", command) else "not known to this test"


@pytest.mark.parametrize("name", NAMES)
def test_every_fenced_block_can_be_typed_or_is_a_tree_that_is_there(name: str) -> None:
    for language, text in blocks(name):
        if language in ("python", "mermaid"):  # run by test_api.py, read by test_architecture.py
            continue
        if re.search(r"^\[\w", text, re.MULTILINE):
            assert tomllib.loads(text)
        elif re.search(r"^\w+/", text, re.MULTILINE):
            folder = ""
            for line in text.splitlines():
                words, deep = re.split(r" {2,}", line.strip())[0], len(line) - len(line.lstrip())
                folder = words if deep == 0 else folder
                places = [ROOT, ROOT / folder, ROOT / folder / "core"]
                for word in words.split():
                    assert any((place / word).exists() for place in places), f"{name}: {word} is not there"
        else:
            for command in text.replace("\\\n", " ").splitlines():
                if command.strip():
                    assert problem(command) is None, f"{name}: {command}: {problem(command)}"


@pytest.mark.parametrize("name", NAMES)
def test_inline_commands_modules_and_files_are_there(name: str) -> None:
    for span in spans(name):
        if re.match(r"(make|pip|pipx|uv) [a-z]|python -m varestorer_cli", span):
            assert problem(span) is None, f"{name}: {span}: {problem(span)}"
        elif re.fullmatch(r"(varestorer_cli|varestorer_models)(\.\w+)+", span):
            parent, _, last = span.rpartition(".")
            assert find_spec(span) or hasattr(__import__(parent, fromlist=[last]), last), f"{name}: {span}"
        elif re.fullmatch(r"(varestorer_cli|docs|tests|examples|models)/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{name}: {span} is not there"


def test_links_between_documents_lead_somewhere() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)", text):
            other = path if not target else (path.parent / target)
            assert other.exists(), f"{path.name}: {target}"
            if anchor and other.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in slugs, f"{path.name}: {target}{anchor}"


def test_the_parts_of_this_test_find_what_is_wrong() -> None:
    wrong = ["make nonsense", "pip install '.[nosuch]'", "python -m varestorer_cli.nosuch", "rm -rf /", "varestorer -x"]
    assert all(problem(command) for command in wrong)
    assert len(TARGETS) > 20 and sum(len(list(blocks(name))) for name in NAMES) > 15
