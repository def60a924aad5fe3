"""A seeded slice of ``make fuzz``, in this process."""

import subprocess
import sys
import textwrap
from pathlib import Path

import damage
import fuzzing
import pytest

_CAPPED = """
    import io, resource, sys
    sys.path.insert(0, sys.argv[1])
    import damage
    import cv2, imagecodecs, tifffile, OpenImageIO
    from varestorer_cli.core.errors import InputError
    from varestorer_cli.core.image.reader import decode, probe
    files = damage.valid_files()
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (768 << 20),) * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(400):
        name, data = damage.case(int(sys.argv[3]), number, files)
        path = sys.argv[2] + "/" + name.replace("/", "_")
        with open(path, "wb") as stream:
            stream.write(data)
        for how in (lambda: probe(path), lambda: decode(data)):
            try:
                how()
            except InputError as error:
                assert "enough memory" not in str(error), (number, name, str(error))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown // 1024, "MB")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the cap on memory is Linux's")
def test_damaged_files_stay_below_a_memory_cap(tmp_path: Path) -> None:
    pytest.importorskip("OpenImageIO")
    command = [sys.executable, "-c", textwrap.dedent(_CAPPED), str(Path(damage.__file__).parent), str(tmp_path), "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("start", range(0, 300, 60))
def test_damaged_images_fail_with_a_reason_or_come_out_right(start: int) -> None:
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


def test_a_wrong_image_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fuzzing.other_reader
    monkeypatch.setattr(fuzzing, "other_reader", lambda data: 255 - plain(data))
    (found,) = [finding for _, _, finding in fuzzing.work(0, iter([0]))]
    assert "steps from what another reader sees" in found
