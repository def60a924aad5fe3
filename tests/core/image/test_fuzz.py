"""A seeded slice of ``make fuzz``, in this process."""

import damage
import fuzzing
import pytest


@pytest.mark.parametrize("start", range(0, 300, 60))
def test_damaged_pictures_fail_with_a_reason_or_come_out_right(start: int) -> None:
    findings = [finding for _, _, finding in fuzzing.work(0, iter(range(start, start + 60))) if finding]
    assert findings == []


def test_the_cases_reach_both_ends() -> None:
    """The slice is of use: undamaged files are all restored, and of the damaged ones many get past the decoders."""
    statuses = [status for _, status, _ in fuzzing.work(0, iter(range(90)))]
    kinds = len(damage.valid_files())
    assert statuses[:kinds] == ["done"] * kinds
    assert statuses[kinds:].count("done") > 10 and statuses[kinds:].count("failed") > 10


def test_cases_are_repeatable() -> None:
    files = damage.valid_files()
    assert [damage.case(0, n, files) for n in range(200)] == [damage.case(0, n, files) for n in range(200)]
    assert [damage.case(1, n, files) for n in range(40, 80)] != [damage.case(0, n, files) for n in range(40, 80)]


def test_a_wrong_picture_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fuzzing.other_reader
    monkeypatch.setattr(fuzzing, "other_reader", lambda data: 255 - plain(data))
    (found,) = [finding for _, _, finding in fuzzing.work(0, iter([0]))]
    assert "steps from what another reader sees" in found
