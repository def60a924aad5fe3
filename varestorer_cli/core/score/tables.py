"""Blocks of text and tables, rendered for the terminal, as Markdown or as LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

BAR = "|"
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
    """Text for the terminal that stdout is; a table wider than it is printed whole, never cut."""
    import rich.console
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    screen = rich.console.Console(highlight=False)
    parts = []
    for block in blocks:
        grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for i, head in enumerate(block.table.head):
            grid.add_column(Text(head), justify="left" if i == 0 else "right")
        for row in block.table.rows:
            grid.add_row(*(Text(cell, no_wrap=len(cell) < 18) for cell in row))
        with screen.capture() as capture:
            screen.print(grid)
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
