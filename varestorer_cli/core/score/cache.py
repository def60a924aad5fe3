"""Keep scores for later runs in a small SQLite file, by the hash of what decides them.

A score is kept under the hashes of the files it was computed from and the metric's name, library, version and
weights (``Metric.identity``); nothing is ever out of date, a change of any of these is another key.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from varestorer_cli.core.folders import cache_folder
from varestorer_cli.core.metrics.base import Metric
from varestorer_cli.core.phrases import reason_of

FILE_NAME = "scores.sqlite3"
OFF = "none"
_TABLES = """
CREATE TABLE IF NOT EXISTS pairs (key TEXT PRIMARY KEY, width INTEGER, height INTEGER, note TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scores (key TEXT, metric TEXT, value REAL, PRIMARY KEY (key, metric)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class About:
    """What is known of a pair without decoding it: (width, height) and the note on how it was read."""

    size: tuple[int, int]
    note: str


Record = tuple[str, About | None, Metric | None, float]


class ScoreCache:
    """Kept scores in one folder; several processes may use it at once.

    A cache that fails (read-only, full, locked for long, damaged) costs time, never a score: it says so once and is
    off from then on.

    Args:
        folder: where the file lies; made if needed.
        warn: called once, with the reason why nothing is kept.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda text: None) -> None:
        self.path = folder / FILE_NAME
        self._warn = warn
        self._off = False

    @classmethod
    def open(cls, where: str | None, warn: Callable[[str], None] = lambda text: None) -> "ScoreCache | None":
        """The cache of a folder, the user's by default; None for ``none``."""
        if where is not None and where.lower() == OFF:
            return None
        try:
            folder = Path(where) if where else cache_folder()
            return None if folder is None else cls(folder, warn)
        except RuntimeError:  # no home directory
            return None

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        connection.executescript(_TABLES)
        return connection

    def about(self, key: str) -> About | None:
        """Size and note of a pair, if it was read before."""
        row = self._ask("SELECT width, height, note FROM pairs WHERE key = ?", (key,))
        return About((row[0], row[1]), row[2]) if row else None

    def values(self, wanted: Mapping[Metric, str]) -> dict[str, float]:
        """Kept scores by metric name.

        Args:
            wanted: metric -> hash of the files.
        """
        found = {}
        for metric, key in wanted.items():
            row = self._ask("SELECT value FROM scores WHERE key = ? AND metric = ?", (key, metric.identity()))
            if row:
                found[metric.name] = float(row[0])
        return found

    def add(self, records: Iterable[Record]) -> None:
        """Keep scores, and what is known of their pairs."""
        if self._off:
            return
        try:
            with self._connection as transaction:
                for key, about, metric, value in records:
                    if about is not None:
                        row = (key, *about.size, about.note)
                        transaction.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?)", row)
                    if metric is not None:
                        scored = (key, metric.identity(), value)
                        transaction.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", scored)
        except (OSError, sqlite3.Error) as error:
            self._fail(error)

    def _ask(self, query: str, values: tuple[str, ...]) -> tuple[int, int, str] | None:
        if self._off:
            return None
        try:
            with closing(self._connection.execute(query, values)) as rows:
                found: tuple[int, int, str] | None = rows.fetchone()
                return found
        except (OSError, sqlite3.Error) as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self._off = True
        self._warn(
            f"{self.path}: scores are not kept for the next run ({reason_of(error)}); "
            "--cache FOLDER names another place"
        )

    def close(self) -> None:
        """Close the file."""
        if "_connection" in self.__dict__:
            with suppress(sqlite3.Error):
                self._connection.close()
