"""Frame sequences in the spellings of studios: ``plate.%04d.exr``, ``plate.####.exr``, ``@@@@``, ``$F4``.

Ranges are read by fileseq (``1-100``, ``1-100x2``, ``1-10y3``, ``1-10:5``, comma lists). Which frames are there is
looked up in the folder; frames that were asked for and are missing are named with their numbers.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from varestorer_cli.core.choices import Missing
from varestorer_cli.core.errors import UsageError

_PATTERN = re.compile(r"%0?(?P<printf>\d*)d|(?P<hash>#+)|(?P<at>@+)|\$F(?P<houdini>\d*)")


@dataclass(frozen=True)
class FramePattern:
    """A path whose file name has a placeholder for the frame number.

    Attributes:
        folder: as written.
        before, after: the name around the number.
        digits: least digits of the number.
    """

    folder: str
    before: str
    after: str
    digits: int

    @classmethod
    def parse(cls, text: str) -> "FramePattern | None":
        """Parse a path; None if its file name has no placeholder for a number."""
        folder, name = os.path.split(text)
        found = list(_PATTERN.finditer(name))
        if not found:
            return None
        last = found[-1]  # shot#3.####.exr: the number of the frame comes last
        marks = last["hash"] or last["at"]
        number = last["printf"] or last["houdini"] or ""
        # A single # or @ means "a number", in some programs of four digits; any width is accepted when reading.
        digits = len(marks) if marks else int(number or 1)
        return cls(folder, name[: last.start()], name[last.end() :], digits)

    def name(self, frame: int) -> str:
        """File name of a frame."""
        number = f"-{-frame:0{max(1, self.digits - 1)}d}" if frame < 0 else f"{frame:0{self.digits}d}"
        return f"{self.before}{number}{self.after}"

    def path(self, frame: int) -> str:
        """Path of a frame."""
        return os.path.join(self.folder, self.name(frame))  # noqa: PTH118  (the folder stays as written)

    def number(self, name: str) -> int | None:
        """Frame number in a file name, None where the name is not of this sequence."""
        middle = name[len(self.before) : len(name) - len(self.after)]
        if len(name) < len(self.before) + len(self.after) or not re.fullmatch(r"-?\d+", middle):
            return None
        frame = int(middle)
        same = name.startswith(self.before) and name.endswith(self.after)
        # 7 and 0007 are different files: only the spelling of the pattern counts, save for a pattern of one digit.
        if not same or (self.digits > 1 and self.name(frame) != name):
            return None
        return frame

    def on_disk(self) -> dict[int, str]:
        """Frames that are there, with their paths, in order of their numbers.

        Raises:
            UsageError: the folder cannot be listed.
        """
        try:
            names = os.listdir(self.folder or ".")  # noqa: PTH208  (names only, as written)
        except OSError as error:
            raise UsageError(f"{self.folder or '.'}: the folder cannot be listed ({error.strerror})") from error
        found: dict[int, str] = {}
        for name in sorted(names):
            frame = self.number(name)
            if frame is not None:
                found.setdefault(frame, os.path.join(self.folder, name))  # noqa: PTH118
        return dict(sorted(found.items()))


def read_range(text: str) -> list[int]:
    """Frame numbers of a range such as ``1-100x2,200``, each once, in order of appearance.

    Raises:
        UsageError: not a range, or more frames than any shot has.
    """
    from fileseq.exceptions import FileSeqException
    from fileseq.frameset import FrameSet

    try:
        frames = [int(frame) for frame in FrameSet(text.strip())] if text.strip() else []
    except (FileSeqException, ValueError, OverflowError) as error:
        reason = str(error).partition(":")[0].partition(" did not")[0]
        raise UsageError(
            f"--frames {text}: {reason}; expected frames such as 1-100, 1-100x2, 1-10y3, 1-10:5 or 1,5,9-12"
        ) from error
    if not frames:
        raise UsageError(f"--frames {text!r}: names no frame")
    return list(dict.fromkeys(frames))


def describe(frames: Sequence[int]) -> str:
    """Frame numbers as text, consecutive ones as ranges: ``3-5,9``."""
    import fileseq

    return str(fileseq.framesToFrameRange(sorted(frames)))


@dataclass
class FrameSelection:
    """Frames of a sequence that were selected, and those that are missing.

    Attributes:
        paths: of the frames that are there.
        absent: paths of frames that were asked for and are not there.
        notes: what should be said about gaps.
    """

    paths: dict[int, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def select_frames(text: str, pattern: FramePattern, wanted: Sequence[int] | None, missing: Missing) -> FrameSelection:
    """Select the frames to restore.

    Args:
        text: the pattern as written.
        pattern: the same, read.
        wanted: from :func:`read_range`; None takes what is there.
        missing: what to do about a frame that does not exist.

    Raises:
        UsageError: frames are missing (``error``), or there is not one frame.
    """
    there = pattern.on_disk()
    if not there:
        raise UsageError(f"{text}: there is no frame of this sequence; check the folder, the name and the padding")
    chosen = FrameSelection()
    first, last = min(there), max(there)
    if wanted is None:
        gaps = sorted(set(range(first, last + 1)) - set(there)) if last - first < 10_000_000 else []
        if gaps:
            chosen.notes.append(f"{text}: frames {describe(gaps)} between {first} and {last} are not there")
        chosen.paths = there
        return chosen
    chosen.paths = {frame: there[frame] for frame in wanted if frame in there}
    # The last chunk of a farm may reach beyond the shot's end; nobody rendered those frames.
    beyond = [frame for frame in wanted if frame > last]
    absent = [frame for frame in wanted if frame not in there and frame <= last]
    if beyond:
        chosen.notes.append(f"{text}: ends with frame {last}; frames {describe(beyond)} are left out")
    if absent and missing == Missing.ERROR:
        raise UsageError(
            f"{text}: frames {describe(absent)} are missing; nothing was done: render them, or use --missing skip "
            "(do the others) or --missing fail (do the others and count these as failed)"
        )
    if absent and missing == Missing.SKIP:
        chosen.notes.append(f"{text}: frames {describe(absent)} are missing and left out (--missing skip)")
    elif absent:
        chosen.absent = [pattern.path(frame) for frame in absent]
    return chosen
