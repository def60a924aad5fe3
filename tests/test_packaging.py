"""The package as its users install it: names, contents of wheel and sdist, a foreign ``models`` beside it."""

import json
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


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and what they are given, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def copied(step: str) -> list[str]:
    """Sources of a COPY."""
    return [name for name in step.split()[:-1] if not name.startswith("--")]


def test_the_dockerfile_is_well_made() -> None:
    steps = dockerfile()
    known = {"ARG", "FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "ENTRYPOINT", "CMD", "LABEL"}
    assert {name for name, _ in steps} <= known
    begin = [name for name, _ in steps].index("FROM")
    assert all(name == "ARG" for name, _ in steps[:begin])
    declared: set[str] = set()
    for place, (name, rest) in enumerate(steps):
        if place == begin:
            assert set(re.findall(r"\$\{?(\w+)", rest)) <= declared and ":latest" not in rest
            declared = set()  # an ARG before FROM is not seen behind it
            continue
        assert set(re.findall(r"(?<!\\)\$\{?([A-Z]\w*)", rest)) <= declared, (name, rest)
        if name in ("ARG", "ENV"):
            declared |= set(re.findall(r"(\w+)=", rest)) or {rest}
        if name == "RUN":
            assert not re.search(r"apt-get upgrade|curl .*\| *sh|sudo", rest)
            assert subprocess.run(["sh", "-n", "-c", rest], check=False).returncode == 0, rest
        if name == "COPY":
            assert all((ROOT / source).exists() for source in copied(rest)), rest
    names = [name for name, _ in steps]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN"), "no root at work"
    assert dict(steps)["ENTRYPOINT"] == '["varestorer"]'
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "tests"} <= set(ignored)
    assert not set(ignored) & {source for name, rest in steps if name == "COPY" for source in copied(rest)}


def test_the_documents_name_the_arguments_of_the_dockerfile() -> None:
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    declared = {rest.partition("=")[0] for name, rest in dockerfile() if name == "ARG"}
    assert "docker build" in install and set(re.findall(r"--build-arg (\w+)", install)) <= declared
    assert {"TORCH", "EXTRAS", "BASE"} <= set(re.findall(r"--build-arg (\w+)", install))


@pytest.mark.slow
def test_what_the_dockerfile_copies_makes_the_program(tmp_path: Path) -> None:
    """Its COPY steps into an empty folder, installed from there without the clone, with our Python."""
    source, site = tmp_path / "src", tmp_path / "site"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
    for _, rest in (step for step in dockerfile() if step[0] == "COPY"):
        for name in copied(rest):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=ignore)
            else:
                shutil.copy(ROOT / name, source / name)
    words = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source)]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *words], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    save(tmp_path / "work" / "in" / "a.png", photo(16, 16))
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "OMP_NUM_THREADS": "1",
        "VARESTORER_WEIGHTS": str(tmp_path / "no"),
    }
    (entry,) = json.loads(dict(dockerfile())["ENTRYPOINT"])
    ran = subprocess.run(
        [sys.executable, str(site / "bin" / entry), "restore", "in", "out", "--model", "compact"],
        cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "work" / "out" / "a.png").is_file()


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
def test_the_sdist_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(sdist)]
    ran = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    contents = []
    for folder in (built, tmp_path):
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            contents.append({entry.filename: entry.CRC for entry in archive.infolist()})
    assert contents[0] == contents[1]


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


def engine() -> str | None:
    """A program that builds and runs containers here, or None; buildah needs no service."""

    def works(name: str) -> bool:
        if shutil.which(name) is None:
            return False
        return subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0

    return next(filter(works, ("docker", "podman", "buildah")), None)


@pytest.mark.long
def test_the_container_is_built_and_restores(tmp_path: Path) -> None:
    """Needs an engine, and a registry of images or VARESTORER_BASE_IMAGE, an image with Python, pip and PyTorch."""
    program = engine()
    if program is None:
        pytest.skip("no container engine works here; the Dockerfile is checked by the tests above")
    base = os.environ.get("VARESTORER_BASE_IMAGE")
    build = [program, "build"] + (["--isolation", "chroot"] if program == "buildah" else [])
    build += ["--build-arg", f"BASE={base}", "--build-arg", "TORCH="] if base else []
    subprocess.run([*build, "-t", "varestorer-test", str(ROOT)], check=True)
    work = tmp_path / "work"
    save(work / "in" / "a.png", photo(16, 16))
    work.chmod(0o777)
    words = ["restore", "in", "out", "--model", "compact"]
    if program == "buildah":
        made = subprocess.run([program, "from", "varestorer-test"], capture_output=True, text=True, check=True)
        container = made.stdout.strip()
        run = [program, "run", "--isolation", "chroot", "-v", f"{work}:/work", container, "varestorer", *words]
        try:
            subprocess.run(run, check=True)
        finally:
            subprocess.run([program, "rm", container], check=True, capture_output=True)
    else:
        mounted = ["--rm", "--user", f"{os.getuid()}:{os.getgid()}", "-v", f"{work}:/work"]
        subprocess.run([program, "run", *mounted, "varestorer-test", *words], check=True)
    assert (work / "out" / "a.png").is_file()
    assert (work / "out" / "a.png").stat().st_uid != 0 or program != "buildah", "the container works as a user"


def test_the_data_of_the_tests_stay_small() -> None:
    files = [
        path for path in (ROOT / "tests" / "data").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < 6_000_000
