"""The package as its users install it: names, contents of wheel and sdist, a foreign ``models`` beside it."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import photo, save

import varestorer_cli
import varestorer_models
from varestorer_cli.core.weights.catalog import BUNDLED

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder as of a Django project: its own ``models.py`` and a package of that name below it."""
    (tmp_path / "models.py").write_text("raise SystemExit('the foreign models.py was imported')\n")
    (tmp_path / "app" / "models").mkdir(parents=True)
    (tmp_path / "app" / "models" / "__init__.py").write_text("raise SystemExit('the foreign models/ was imported')\n")
    for folder in (tmp_path, tmp_path / "app"):
        save(folder / "a.png", photo(16, 12))
    return tmp_path


LIBRARY = """
from varestorer_cli import RestoreOptions, Restorer
from PIL import Image
Restorer("compact", RestoreOptions(device="cpu")).restore("a.png", "c.png")
assert Image.open("c.png").size == (48, 64)
"""


@pytest.mark.parametrize("inside", [".", "app"], ids=["models.py", "models/"])
def test_foreign_modules_called_models_do_no_harm(foreign: Path, inside: str) -> None:
    """Python puts the working folder first on its path under ``-m`` and ``-c``."""
    folder = foreign / inside
    code = [str(Path(module.__file__ or "").parent.parent) for module in (varestorer_cli, varestorer_models)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(code), "OMP_NUM_THREADS": "1"}
    words = ["-m", "varestorer_cli", "restore", "a.png", "b.png", "--model", "compact", "--device", "cpu"]
    for arguments in (words, ["-c", LIBRARY]):
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    assert (folder / "b.png").read_bytes() == (folder / "c.png").read_bytes()


def test_no_module_has_a_name_that_others_may_have() -> None:
    imported = re.compile(r"^\s*(?:from|import) (models|core|commands|data|bench)\b", re.MULTILINE)
    for path in [*ROOT.glob("varestorer_cli/**/*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        assert not imported.search(path.read_text(encoding="utf-8")), path


def test_metadata_is_complete() -> None:
    for field in ("description", "license", "authors", "keywords", "classifiers", "requires-python"):
        assert PROJECT[field], field
    assert PROJECT["dynamic"] == ["readme"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    title = next(line for line in text.splitlines() if line.startswith("# "))
    assert PROJECT["name"] in title
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_dockerfile_says_what_the_documents_say() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    steps = [line.split()[0] for line in lines if re.match(r"[A-Z]+ ", line)]
    known = {"ARG", "FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD", "LABEL"}
    assert steps[0] in ("ARG", "FROM") and set(steps) <= known
    text = "\n".join(lines)
    assert "USER " in text and 'ENTRYPOINT ["varestorer"]' in text and "ARG TORCH=cpu" in text
    assert not re.search(r":latest|apt-get upgrade|ADD http", text)
    for source in re.findall(r"^COPY ((?:(?!--)\S+ )+)\S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "tests"} <= set(ignored)
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "docker build" in install and "--build-arg TORCH=" in install


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, made from the tracked files."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("built")
    clone = folder / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if names.returncode:
        pytest.skip("not a git checkout")
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(clone)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_the_wheel_holds_what_the_editable_install_has(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    assert {name.partition("/")[0] for name in names} == {"varestorer_cli", "varestorer_models"}
    here = {
        path.relative_to(base).as_posix()
        for base, package in ((ROOT, "varestorer_cli"), (ROOT / "models", "varestorer_models"))
        for path in (base / package).rglob("*.py")
        if "photos" not in path.parts
    }
    assert {name for name in names if name.endswith(".py")} == here
    assert {f"varestorer_cli/data/{model.file}" for model in BUNDLED.values()} <= names
    assert {"varestorer_cli/py.typed", "varestorer_models/py.typed", "varestorer_cli/data/MODEL_CARD.md"} <= names
    for folder in ("samples", "page"):
        own = {path.name for path in (ROOT / "varestorer_cli" / "data" / folder).iterdir() if path.is_file()}
        assert {name.rpartition("/")[2] for name in names if f"/data/{folder}/" in name} >= own - {"__init__.py"}
    assert "Author: the varestorer authors" in described or "Author-email:" in described
    body = described.partition("\n\n")[2]
    assert not re.search(r"!\[[^\]]*\]\((?!https?:|data:)", body), "an image that is not there outside the repository"


@pytest.mark.slow
def test_the_sdist_carries_tests_and_documents(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for folder in ("tests", "docs", "examples", "models", "varestorer_cli")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }
    missing = sorted(tracked - names)
    assert not missing, missing[:10]
    assert {"Makefile", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "LICENSE", "Dockerfile"} <= names


@pytest.mark.slow
def test_the_wheel_works_alone(built: Path, foreign: Path) -> None:
    """Unpacked like an installer does, with nothing of the clone on the path."""
    (wheel,) = built.glob("*.whl")
    site = built / "site"
    if not site.is_dir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    words = ["-m", "varestorer_cli", "restore", "a.png", "b.png", "--model", "compact", "--device", "cpu"]
    where = "import varestorer_cli, varestorer_models; print(varestorer_cli.__file__, varestorer_models.__file__)"
    for arguments in (words, ["-c", where]):
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=foreign, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    assert all(name.startswith(str(site)) for name in ran.stdout.split())


@pytest.mark.long
def test_the_container_is_built_and_restores(tmp_path: Path) -> None:
    """Needs a running engine and the network; elsewhere the Dockerfile is only read."""

    def ready(name: str) -> bool:
        if shutil.which(name) is None:
            return False
        return subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0

    engine = next(filter(ready, ("docker", "podman")), None)
    if engine is None:
        pytest.skip("no container engine runs here")
    subprocess.run([engine, "build", "-t", "varestorer-test", str(ROOT)], check=True)
    save(tmp_path / "in" / "a.png", photo(16, 16))
    mounted = ["--rm", "--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{tmp_path}:/work"]
    words = ["restore", "in", "out", "--model", "compact"]
    subprocess.run([engine, "run", *mounted, "varestorer-test", *words], check=True)
    assert (tmp_path / "out" / "a.png").is_file()


def test_the_data_of_the_tests_stay_small() -> None:
    files = [
        path for path in (ROOT / "tests" / "data").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < 6_000_000
