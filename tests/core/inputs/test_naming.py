"""Templates of output names."""

from pathlib import Path

import pytest
from conftest import photo, save

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.inputs.naming import NameTemplate
from varestorer_cli.core.inputs.plan import make_plan
from varestorer_cli.core.options import ImageFormat, RestoreOptions
from varestorer_cli.core.sizing import Sizing

OPTIONS = RestoreOptions(model="runs/best.safetensors", sizing=Sizing(long_side=2048), seed=7)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{stem}_x4", "a.b_x4.png"),
        ("{stem}-{model}-{size}-{seed}.{ext}", "a.b-best-long2048-7.png"),
        ("{ext}/{stem}", "png/a.b.png"),
        ("{{{stem}}}", "{a.b}.png"),
    ],
)
def test_fields(template: str, name: str) -> None:
    assert NameTemplate.of(template, OPTIONS).apply("a.b.png") == name


@pytest.mark.parametrize("bad", ["{stem", "{what}", "{stem!r}", "{stem:>9}", "{}", "/abs/{stem}", "../{stem}", "", "."])
def test_bad_templates_are_refused_with_a_reason(bad: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        NameTemplate.of(bad, OPTIONS)


def test_names_are_planned_below_the_mirrored_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("in/sub/a.png"), photo(3, 3))
    template = NameTemplate.of("{stem}_{size}", RestoreOptions(sizing=Sizing(scale=2)))
    (job,) = make_plan(["in"], "out", format=ImageFormat.WEBP, template=template).jobs
    assert job.output == Path("out/sub/a_x2.webp")
    with pytest.raises(UsageError, match="--name names files too"):
        make_plan(["in/sub/a.png"], "b.png", template=template)


def test_clashes_made_by_a_template_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save(Path(f"in/{name}.png"), photo(3, 3))
    with pytest.raises(UsageError, match=r"in/a\.png and in/b\.png would both become out/all\.png"):
        make_plan(["in"], "out", template=NameTemplate.of("all", RestoreOptions()))
