"""Large files: how much memory conversion, loading and restoring take. Every step is a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import releases
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
FILES = (releases.STUDENT, releases.AUTOENCODER, releases.PRERESTORER)

# Prints (peak of all resident memory, peak of memory that is not a mapped file) beyond what the imports take, in bytes.
_MEASURE = """
import sys, threading, time
import torch
from pathlib import Path
from varestorer_cli.core.weights.model_file import load_restorer
from varestorer_cli.core.install.importer import import_files

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

root, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
torch.zeros(8, 8) @ torch.zeros(8, 8)
load_restorer("mini")  # what loading imports is not the measured model's
before, own = status("VmRSS"), status("RssAnon")
peaks, done = [0], threading.Event()

def watch():
    while not done.wait(0.005):
        peaks.append(status("RssAnon") - own)

watcher = threading.Thread(target=watch)
watcher.start()
{work}
done.set()
watcher.join()
print(status("VmHWM") - before, max(peaks))  # ru_maxrss would begin at the parent's
"""


def peaks(work: str, *words: object) -> tuple[int, int]:
    """(all, not mapped) of a process that does ``work``."""
    program = _MEASURE.format(work=work)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    total, own = done.stdout.split()
    return int(total), int(own)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return releases.write_release(
        tmp_path_factory.mktemp("release"), releases.middle(width=1024, depth=8), teacher=False
    )


@pytest.fixture(scope="module")
def root(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    peaks("import_files(files, root)", folder, *(release / name for name in FILES))
    return folder


@pytest.mark.slow
def test_conversion_never_holds_the_model(release: Path, tmp_path: Path) -> None:
    largest = (release / releases.STUDENT).stat().st_size
    assert largest > 500e6
    total, own = peaks("import_files(files, root)", tmp_path, *(release / name for name in FILES))
    assert total < 1.3 * largest
    assert own < 0.2 * largest  # the rest is the mapped input, which the system may drop at any time


@pytest.mark.slow
def test_loading_maps_the_file(root: Path) -> None:
    size = (root / "2b.safetensors").stat().st_size
    assert size > 250e6
    total, own = peaks('model = load_restorer("2b", weights=root)', root)
    assert total < 1.2 * size
    assert own < 0.1 * size


@pytest.mark.slow
def test_a_second_model_takes_no_memory_of_its_own(root: Path) -> None:
    size = (root / "2b.safetensors").stat().st_size
    _, own = peaks('models = [load_restorer("2b", weights=root) for _ in range(2)]', root)
    assert own < 0.1 * size


@pytest.mark.long
def test_the_published_size_is_imported_and_loaded(tmp_path: Path) -> None:
    """2.2 billion values; 16 GB of disk, 6 GB of memory."""
    # stored in bfloat16, so that the random release fits this test's memory; conversion reads any type
    release = releases.write_release(tmp_path / "release", releases.FULL, dtype=torch.bfloat16, teacher=False)
    largest = (release / releases.STUDENT).stat().st_size
    assert largest > 4.4e9
    total, own = peaks("import_files(files, root)", tmp_path / "root", *(release / name for name in FILES))
    assert total < 1.3 * largest and own < 0.2 * largest
    size = (tmp_path / "root" / "2b.safetensors").stat().st_size
    assert 4.8e9 < size < 5.2e9
    work = """
loaded = load_restorer("2b", weights=root)
count = sum(p.numel() for p in loaded.restorer.transformer.parameters())
assert count == 2_204_564_032, count
assert loaded.restorer.tile == 512
"""
    total, own = peaks(work, tmp_path / "root")
    assert total < 1.2 * size and own < 0.1 * size


@pytest.mark.long
def test_the_published_size_restores_a_image(tmp_path: Path) -> None:
    """One tile of 512 pixels: minutes to an hour, by the machine."""
    from conftest import load, photo, save

    release = releases.write_release(tmp_path / "release", releases.FULL, dtype=torch.bfloat16, teacher=False)
    peaks("import_files(files, root)", tmp_path / "root", *(release / name for name in FILES))
    for name in FILES:
        (release / name).unlink()
    save(tmp_path / "in" / "a.png", photo(128, 128))
    words = ["restore", tmp_path / "in", tmp_path / "out", "--model", "2b", "--weights", tmp_path / "root"]
    command = [sys.executable, "-m", "varestorer_cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "out" / "a.png").shape == (512, 512, 3)
