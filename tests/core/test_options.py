from dataclasses import replace

import pytest

from varestorer_cli.core.errors import UsageError
from varestorer_cli.core.options import (
    ColorFix,
    Compat,
    FailureLimit,
    ImageFormat,
    RestoreOptions,
    Shard,
    Sizing,
    parse_size,
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Sizing(), (404, 200)),
        (Sizing(scale=1), (101, 50)),
        (Sizing(scale=1.5), (152, 75)),  # 151.5 rounds up
        (Sizing(scale=2), (202, 100)),
        (Sizing(scale=3), (303, 150)),
        (Sizing(scale=8), (808, 400)),
        (Sizing(scale=0.001), (1, 1)),
        (Sizing(size=(640, 480)), (640, 480)),
        (Sizing(long_side=1000), (1000, 495)),
        (Sizing(short_side=100), (202, 100)),
        (Sizing(megapixels=1), (1421, 704)),
    ],
)
def test_target_sizes_are_rounded_to_the_pixel(rule: Sizing, expected: tuple[int, int]) -> None:
    assert rule.target(101, 50) == expected


def test_sides_follow_the_picture_not_its_order() -> None:
    assert Sizing(long_side=1000).target(50, 101) == (495, 1000)
    assert Sizing(short_side=100).target(50, 101) == (100, 202)


def test_the_released_way_rounds_halves_to_even() -> None:
    options = RestoreOptions(sizing=Sizing(scale=2.5))
    assert options.target(25, 27) == (63, 68)
    released = replace(options, compat=Compat.RELEASED)
    assert released.target(25, 27) == (62, 68)
    hashes = {o.settings_sha256(overlap=8, sampling="sample", format=ImageFormat.PNG) for o in (options, released)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": 0.0}, "--scale 0: a factor above 0"),
        ({"scale": float("nan")}, "--scale nan"),
        ({"scale": 65.0}, "up to 64"),
        ({"size": (0, 5)}, "--size 0x5"),
        ({"long_side": 0}, "--long-side 0: at least 1 pixel"),
        ({"megapixels": -1.0}, "--megapixels -1"),
        ({"scale": 2.0, "long_side": 5}, "--scale and --long-side contradict each other"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sizing(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fidelity": 1.5}, "--fidelity 1.5"),
        ({"quality": 0}, "--quality 0"),
        ({"tile": 0}, "--tile 0"),
        ({"batch": -1}, "--batch -1"),
        ({"overlap": -1}, "--overlap -1"),
        ({"threads": 0}, "--threads 0"),
    ],
)
def test_impossible_options_are_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RestoreOptions(**values)  # type: ignore[arg-type]


def test_sizes_are_parsed() -> None:
    assert parse_size("1920x1080") == (1920, 1080)
    with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
        parse_size("1920")


def test_shards_count_from_zero() -> None:
    assert Shard.parse("0/3") == Shard(0, 3)
    with pytest.raises(UsageError, match="shards count from 0, so 3 shards are 0/3 to 2/3"):
        Shard.parse("3/3")
    with pytest.raises(UsageError, match="expected I/N"):
        Shard.parse("one/3")


@pytest.mark.parametrize("count", [1, 3, 7])
def test_each_key_belongs_to_one_shard(count: int) -> None:
    keys = [f"folder/{i}.png" for i in range(200)]
    parts = [{key for key in keys if Shard(i, count).holds(key)} for i in range(count)]
    assert sum(len(part) for part in parts) == 200
    assert set().union(*parts) == set(keys)
    assert min(len(part) for part in parts) > 200 / count / 3


@pytest.mark.parametrize(
    ("text", "failed", "total", "allowed"),
    [("0", 0, 9, True), ("0", 1, 9, False), ("2", 2, 9, True), ("10%", 1, 10, True), ("10%", 2, 10, False)],
)
def test_failure_limits(text: str, failed: int, total: int, allowed: bool) -> None:
    assert FailureLimit.parse(text).allows(failed, total) is allowed


@pytest.mark.parametrize("text", ["-1", "a", "101%", "1.5"])
def test_bad_failure_limits_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-failed"):
        FailureLimit.parse(text)


def test_settings_hash_tells_what_changes_pixels_and_nothing_else() -> None:
    def of(format: ImageFormat = ImageFormat.PNG, **values: object) -> str:
        options = RestoreOptions(**values)  # type: ignore[arg-type]
        return options.settings_sha256(overlap=4, sampling="argmax", format=format)

    base = of()
    assert base == of(sizing=Sizing(scale=4)) == of(device="cuda", batch=3, threads=2, strict=True, seed=9)
    assert len({base, of(sizing=Sizing(scale=2)), of(fidelity=0.5), of(strip=True), of(color_fix=ColorFix.NONE)}) == 5


@pytest.mark.parametrize("format", ImageFormat)
def test_the_quality_counts_only_for_formats_that_have_one(format: ImageFormat) -> None:
    hashes = {
        RestoreOptions(quality=quality).settings_sha256(overlap=4, sampling="argmax", format=format)
        for quality in (80, 90)
    }
    assert len(hashes) == (2 if format in (ImageFormat.JPEG, ImageFormat.WEBP) else 1)


def test_the_seed_counts_only_where_noise_is_drawn() -> None:
    hashes = [
        RestoreOptions(seed=seed).settings_sha256(overlap=4, sampling="sample", format=ImageFormat.PNG)
        for seed in (0, 1)
    ]
    assert hashes[0] != hashes[1]
