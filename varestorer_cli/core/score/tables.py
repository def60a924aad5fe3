"""Blocks of text and tables, rendered for the terminal, as Markdown or as LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

BAR = "|"
_WIDEST = 10_000  # columns; more than any table takes
_SHORT = 12
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table as cells of text; the first column is words, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Block:
    """A table with the lines above and below it."""

    above: tuple[str, ...]
    table: Table
    below: tuple[str, ...] = ()


def terminal(blocks: Sequence[Block]) -> str:
    """Text for stdout: a table in a pipe or file takes the width it needs, one on a terminal folds its words only.

    Numbers are never cut or folded: a table too wide for its terminal is printed whole.
    """
    import rich.console
    from rich import box
    from rich.measure import Measurement
    from rich.table import Table as RichTable
    from rich.text import Text

    screen = rich.console.Console(highlight=False)
    parts = []
    for block in blocks:
        grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        words, *numbers = zip(block.table.head, *block.table.rows, strict=True)
        short = [len(word) for word in words if len(word) <= _SHORT]  # a metric and its arrow stay in one line
        grid.add_column(Text(words[0]), min_width=max(short, default=None))
        for column in numbers:
            grid.add_column(Text(column[0]), justify="right", no_wrap=True, min_width=max(map(len, column)))
        for row in block.table.rows:
            grid.add_row(*map(Text, row))
        needed = Measurement.get(screen, screen.options.update(width=_WIDEST), grid)
        width = max(screen.width, needed.minimum) if screen.is_terminal else needed.maximum
        wide = rich.console.Console(highlight=False, width=width, height=screen.height)  # both, or rich asks again
        with wide.capture() as capture:
            wide.print(grid)
        parts.append("\n".join([*block.above, capture.get().rstrip("\n"), *block.below]))
    return "\n\n".join(parts)


def markdown(blocks: Sequence[Block]) -> str:
    """Every block as paragraph, table, paragraph."""
    parts = []
    for block in blocks:
        width = len(block.table.head)
        lines = [block.table.head, tuple("---" if i == 0 else "---:" for i in range(width)), *block.table.rows]
        escaped = [[cell.replace(BAR, "\\|") for cell in line] for line in lines]
        parts += ["  \n".join(block.above), "\n".join(f"{BAR} {f' {BAR} '.join(line)} {BAR}" for line in escaped)]
        if block.below:
            parts.append("  \n".join(block.below))
    return "\n\n".join(parts) + "\n"


def latex(blocks: Sequence[Block]) -> str:
    """Every block as a table environment (package booktabs), its lines in the caption and below."""
    parts = []
    for block in blocks:
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in block.table.rows]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{'. '.join(map(_escaped, block.above))}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(block.table.head) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escaped, block.table.head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        if block.below:
            lines.append(rf"\par\footnotesize {'. '.join(map(_escaped, block.below))}.")
        parts.append("\n".join([*lines, r"\end{table}"]))
    return "\n\n".join(["% needs \\usepackage{booktabs}", *parts]) + "\n"


def _escaped(text: str) -> str:
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], text)
