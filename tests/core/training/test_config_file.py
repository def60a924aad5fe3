"""``--config`` with odd files, refused with key and line; ``--show-config``, which explains every field."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.training.config_file import descriptions, to_toml
from varestorer_cli.core.training.presets import preset, preset_names, read_preset

ODD = {
    "table": ('base = "smoke"\n\n[teacher]\nwdth = 3\n', 4, "no key teacher.wdth; did you mean width"),
    "stage": ("crops = 3\n[recipes.distil]\nsteps = 3\n", 2, "no key recipes.distil; did you mean distill"),
    "dotted": ('recipes."distill" . steps = -4\n', 1, "recipes.distill: steps must be a number from 0 up, got -4"),
    "inline": ("crops = 3\nteacher = { depth = 2, wdth = 3 }\n", 2, "no key teacher.wdth"),
    "several lines": ("[recipes.distill]\nbetas = [\n 0.9,\n 'x',\n]\n", 2, r"betas\[1\] is 'x'; it must be a number"),
    "a list for a number": ("# mine\ncrops = [1, 2]\n", 2, r"crops is \[1, 2\]; it must be a whole number"),
    "a date": ("name = 1979-05-27\n", 1, "name is datetime.date.*; it must be a text"),
    "huge": (f"crops = {10**20}\n", 1, "it must be a whole number from -1099511627776 to 1099511627776"),
    "infinite": ("[recipes.distill]\nlearning_rate = 1e400\n", 2, "learning_rate is inf; it must be a number"),
    "nan": ("[recipes.distill.losses]\nkl = nan\n", 2, "losses.kl is nan"),
    "tables for a number": ("[teacher]\nwidth = " + "{a = " * 300 + "1" + "}" * 300, 2, "it must be a whole number"),
    "a list of tables": ("[[recipes]]\na = 1\n", 0, r"recipes is .*; it must be a table"),
    "blocks without end": ("[teacher]\ndepth = 100000000\n", 2, "teacher.depth is 100000000; it must be at most 1000"),
    "no network": (f"[teacher]\nwidth = {1 << 40}\nheads = 4\n", 1, "no network can be built from teacher"),
    "no scale": ("[restorer]\nscale = 0\n", 2, "restorer.scale must be a number from 1 to 16, got 0"),
    "unprintable": (r'name = "a\u0007"' + "\n", 1, "name must be a text that can be printed"),
    "base": ('crops = 3\nbase = ["smoke"]\n', 2, r"there is no preset \['smoke'\] for its base; choose one of 2b"),
    "syntax": ("crops = 3\ncrops = 4\n", 0, r"not a TOML file \(Cannot overwrite a value \(at line 2, column 10\)\)"),
    "digits": ("crops = " + "9" * 5000, 0, "lists within lists or digits without end"),
    "depth": ("a = " + "[" * 100_000, 0, "lists within lists or digits without end"),
    "carriage returns alone": ("crops = 3\rcrops = 4\r", 0, "not a TOML file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_files_are_refused_with_key_and_line(kind: str, tmp_path: Path) -> None:
    """With the mark and the ends of lines that Windows sets; ``test_config`` has them without."""
    text, line, message = ODD[kind]
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    with pytest.raises(UsageError, match=message) as caught:
        read_preset(path, None)
    where = f"{path}, line {line}: " if line else f"{path}: "
    assert str(caught.value).startswith(where)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp932"])
def test_other_encodings_are_refused_with_their_line(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    name = "テスト" if encoding == "cp932" else "größer"
    path.write_bytes(b"crops = 3\n" * (encoding != "utf-16") + f'name = "{name}"\n'.encode(encoding))
    line = 1 if encoding == "utf-16" else 2
    with pytest.raises(UsageError, match=rf"mine\.toml, line {line}: not a TOML file \(byte 0x\w\w is no UTF-8\)"):
        read_preset(path, None)


def test_a_pipe_is_read_and_what_never_ends_is_not(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b'base = "smoke"\ncrops = 5\n')
    os.close(write_end)
    assert read_preset(Path(f"/dev/fd/{read_end}"), None).crops == 5
    os.close(read_end)
    with pytest.raises(UsageError, match="/dev/zero: has more than 1 MB"):
        read_preset(Path("/dev/zero"), None)


# --- printed


@pytest.mark.parametrize("name", preset_names())
def test_every_field_is_printed_below_what_its_docstring_says(name: str) -> None:
    """And what is printed is TOML, whatever the docstrings hold."""
    lines = to_toml(preset(name)).splitlines()
    keys = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    losses = {key for recipe in preset(name).recipes.values() for key in recipe.losses}
    bare = [lines[n] for n in keys if not lines[n - 1].startswith("# ") and lines[n].split(" = ")[0] not in losses]
    assert not bare and len(keys) > 100
    assert max(map(len, lines)) <= 120 or "grids" in max(lines, key=len)
    text = " ".join(line.removeprefix("# ") for line in lines)
    assert "``" not in text and ":class:" not in text and "None" not in text


def test_comments_are_the_docstrings() -> None:
    @dataclass(frozen=True)
    class Sizes:
        """Of a thing.

        Attributes:
            width: channels; None = as :class:`~other.Thing` has
                them, ``wide``: "all".
            kind: what it is.
            said: ``a`` or ``b``.

        Raises:
            ValueError: never: not a field.
        """

        width: int | None = None
        kind: Literal["round", "square"] | None = None
        said: Literal["a", "b"] = "a"

    found = descriptions(Sizes)
    assert set(found) == {"width", "kind", "said"}
    assert found["width"] == 'channels; "none" = as Thing has them, wide: "all".'
    assert found["kind"] == "what it is. One of: round, square." and found["said"] == "a or b."
    assert tomllib.loads(to_toml(Sizes())) == {"width": "none", "kind": "none", "said": "a"}


def test_a_network_of_several_kinds_says_which_there_are() -> None:
    lines = to_toml(preset("compact")).splitlines()
    assert lines[lines.index('class = "RRDB"') - 1] == "# One of: ConvRestorer, RRDB, SwinIR."
