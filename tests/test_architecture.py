"""The page on the architecture tells the truth: its image follows the table of imports, its files exist."""

import re
from pathlib import Path

import pytest

from tests.test_boundaries import ALLOWED, COMMANDS, GRAPH, ROOT, dotted, room

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def imported_by_commands() -> set[str]:
    """The rooms that some command imports."""
    modules = [dotted(path) for path in COMMANDS]
    found = {room(other) for module in modules for other in GRAPH[module]} - {None, "foundation"}
    return {str(other) for other in found}


def reduced(rules: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that no longer path implies."""

    def below(name: str) -> set[str]:
        return rules[name].union(*(below(other) for other in rules[name]))

    return {
        (name, other)
        for name, others in rules.items()
        for other in others
        if not any(other in below(between) for between in others)
    }


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_image_shows_every_room_and_the_arrows_of_the_rules() -> None:
    image = PAGE.partition("```mermaid\n")[2].partition("```")[0]
    rooms = set(re.findall(r'^    (\w+)\["', image, re.MULTILINE))
    assert rooms == {*ALLOWED, "commands"}
    arrows = set(re.findall(r"^    (\w+) --> (\w+)$", image, re.MULTILINE))
    rules = {**ALLOWED, "commands": imported_by_commands()}
    for name, others in rules.items():  # the foundation is everybody's; shown at the lowest rooms of core
        if not others and name not in ("foundation", "models"):
            rules[name] = {"foundation"}
    wanted = reduced(rules)
    assert arrows == wanted, f"missing: {sorted(wanted - arrows)}; not in the rules: {sorted(arrows - wanted)}"


def test_the_reduction_drops_what_a_longer_path_says() -> None:
    rules = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert reduced(rules) == {("a", "b"), ("b", "c")}


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", PAGE)) - {"commands/", "core/", "out/metrics.csv"}
    assert len(named) > 40
    missing = [
        name for name in sorted(named) if not any((base / name).exists() for base in (ROOT, ROOT / "varestorer_cli"))
    ]
    assert not missing


@pytest.mark.parametrize("row", re.findall(r"^\| (?!question|-)(.+) \| (.+) \|$", section("First day"), re.MULTILINE))
def test_a_first_day_question_is_answered_from_at_most_two_files(row: tuple[str, str]) -> None:
    assert 1 <= len(re.findall(r"`[\w./-]+\.\w+`", row[1])) <= 2, row[0]


def test_there_are_twelve_first_day_questions() -> None:
    assert section("First day").count("?") == 12


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
