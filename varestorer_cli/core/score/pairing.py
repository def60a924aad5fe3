"""Files of two folders paired by name.

The name is the path below the folder without suffix, never the order. A file without a partner stops the run before
any work.
"""

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.image.formats import SUFFIXES
from varestorer_cli.core.phrases import count, named

IMAGE_SUFFIXES = frozenset(SUFFIXES)


@dataclass(frozen=True)
class Pair:
    """One restored file and its reference.

    Attributes:
        name: path without suffix below the folders.
        restored: the file to judge.
        reference: what it should look like; None for no-reference metrics.
        problem: why it must not be scored, e.g. that its restoration failed and the file is of an earlier run.
    """

    name: str
    restored: Path
    reference: Path | None
    problem: str = ""


@dataclass(frozen=True)
class PairPlan:
    """What will be scored, and which files have no partner (empty unless partial scoring was allowed)."""

    pairs: tuple[Pair, ...]
    unpaired_restored: tuple[str, ...] = ()
    unpaired_reference: tuple[str, ...] = ()

    def only(self, names: Collection[str]) -> "PairPlan":
        """The plan of these pairs alone, as one shard scores them."""
        return replace(self, pairs=tuple(pair for pair in self.pairs if pair.name in names))


def find_images(folder: Path) -> dict[str, Path]:
    """Image files below ``folder``, keyed by their path below it without suffix.

    Hidden files, folders of other things and files that are no image are passed over.

    Raises:
        UsageError: no image, or two files that differ in the suffix only.
    """
    found: dict[str, Path] = {}
    clashes: list[str] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in IMAGE_SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        if not path.is_file():
            continue
        # macOS hands out decomposed names, everyone else composed ones: the same name shall match.
        key = unicodedata.normalize("NFC", relative.with_suffix("").as_posix())
        if key in found:
            clashes.append(f"{found[key].relative_to(folder)} and {relative}")
        found[key] = path
    if clashes:
        raise UsageError(
            f"{folder}: files with one name and different suffixes cannot be told apart as partners: "
            f"{named(clashes, 10)}. Move one of each away."
        )
    if not found:
        raise UsageError(
            f"{folder} holds no image (looked below it for {', '.join(sorted(IMAGE_SUFFIXES))}); "
            f"is it the right folder?"
        )
    return found


def plan_pairs(restored: Path, reference: Path | None, *, partial: bool = False) -> PairPlan:
    """Pair restored files with their references, by name.

    Args:
        restored: a folder, or one file.
        reference: a folder, or one file (whatever it is called), or None for no-reference metrics only.
        partial: score the files that have a partner although others have none.

    Raises:
        UsageError: missing paths, a file against a folder, or files without partner.
    """
    for path in (restored, reference):
        if path is not None and not path.exists():
            raise UsageError(f"{path} does not exist; check the spelling, it is taken from {Path.cwd()}")
    if reference is not None and restored.resolve() == reference.resolve():
        raise UsageError(f"{restored} is compared with itself: every score would be perfect. Check --reference.")
    if restored.is_file() and (reference is None or reference.is_file()):
        return PairPlan((Pair(restored.stem, restored, reference),))
    if restored.is_file() or (reference is not None and reference.is_file()):
        raise UsageError(
            f"{restored} and {reference}: one is a file, the other a folder. Give two files or two folders."
        )
    left = find_images(restored)
    if reference is None:
        return PairPlan(tuple(Pair(name, path, None) for name, path in left.items()))
    return match_pairs(left, find_images(reference), partial=partial, restored=str(restored), reference=str(reference))


def match_pairs(
    left: Mapping[str, Path], right: Mapping[str, Path], *, partial: bool, restored: str, reference: str
) -> PairPlan:
    """Pair two sets of files by their keys.

    Args:
        left: key -> restored file.
        right: key -> reference file.
        partial: allow files without partner, on either side.
        restored: what to call the left side in a message.
        reference: what to call the right side.

    Raises:
        UsageError: files without partner and not ``partial``, or no pair at all.
    """
    pairs = tuple(Pair(name, path, right[name]) for name, path in left.items() if name in right)
    lone_left = tuple(name for name in left if name not in right)
    lone_right = tuple(name for name in right if name not in left)
    if not pairs or ((lone_left or lone_right) and not partial):
        sides = [
            f"{len(names)} only in {where}: {named(names, 10)}"
            for names, where in ((lone_left, restored), (lone_right, reference))
            if names
        ]
        cure = "Rename the files, or score the pairs there are with --partial." if pairs else "Rename the files."
        raise UsageError(
            f"{count(len(pairs), 'file pairs', 'files pair')} by name (path without suffix), "
            f"the others have no partner. {'. '.join(sides)}. {cure}"
        )
    return PairPlan(pairs, lone_left, lone_right)
