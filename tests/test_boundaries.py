"""The architecture as a test: who may import whom, who may do what, how long a file may be.

Reads imports with ``ast``; a failure names the file and the rule.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted((ROOT / "models" / "varestorer_models").rglob("*.py"))
CLI = sorted((ROOT / "varestorer_cli").rglob("*.py"))
CORE = sorted((ROOT / "varestorer_cli" / "core").rglob("*.py"))
COMMANDS = sorted((ROOT / "varestorer_cli" / "commands").rglob("*.py"))
APP = [ROOT / "varestorer_cli" / "app.py", ROOT / "varestorer_cli" / "__main__.py"]
LONGEST = 600


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Full names of imported modules; ``from a import b`` gives both a and a.b. Type-checking blocks do not count."""
    module = ast.parse(path.read_text(encoding="utf-8"))

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if top_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name(path)}: relative import; always import absolutely"
                yield child.module or ""
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            else:
                yield from visit(child)

    return visit(module)


def packages(path: Path, *, top_only: bool = False) -> set[str]:
    return {module.partition(".")[0] for module in imports(path, top_only=top_only)}


def importers(package: str, paths: list[Path]) -> set[str]:
    return {name(path) for path in paths if package in packages(path)}


def test_the_tree_is_where_this_test_looks() -> None:
    assert len(MODELS) > 5 and len(CORE) > 10 and len(COMMANDS) > 2


def test_imports_are_seen() -> None:
    found = set(imports(ROOT / "varestorer_cli" / "core" / "engine" / "engine.py"))
    assert {"torch", "varestorer_cli.core.engine.tiling", "varestorer_cli.core.engine.tiling.TileGrid"} <= found


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_models_import_only_torch_and_a_little_of_the_standard_library(path: Path) -> None:
    allowed = {
        "torch",
        "varestorer_models",
        "math",
        "dataclasses",
        "typing",
        "enum",
        "collections",
        "contextlib",
        "re",
        "functools",
    }
    assert packages(path) <= allowed, f"{name(path)}: models are pure: tensors in, tensors out"


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_never_imports_commands_or_typer(path: Path) -> None:
    for module in imports(path):
        assert not module.startswith(("varestorer_cli.commands", "varestorer_cli.app")), "commands -> core, never back"
        assert module.partition(".")[0] not in ("typer", "click"), "only app and commands know Typer"


@pytest.mark.parametrize("path", [*COMMANDS, *APP], ids=name)
def test_commands_import_no_heavy_package_at_their_top(path: Path) -> None:
    heavy = {
        "torch",
        "numpy",
        "cv2",
        "PIL",
        "tifffile",
        "safetensors",
        "pyiqa",
        "varestorer_models",
        "tensorboard",
        "rich",
    }
    assert not packages(path, top_only=True) & heavy, f"{name(path)}: --help must not load this"


def test_single_importers() -> None:
    assert importers("pyiqa", CLI) <= {"varestorer_cli/core/metrics/pyiqa_backend.py"}
    # Other licences apply to pyiqa: no command but score may come near it.
    near = {"varestorer_cli/core/metrics/registry.py", "varestorer_cli/core/metrics/pyiqa_backend.py"}
    assert {name(path) for path in CLI if "varestorer_cli.core.metrics.pyiqa_backend" in set(imports(path))} <= near
    assert importers("transformers", CLI) <= {"varestorer_cli/core/text/transformers_backend.py"}
    assert importers("huggingface_hub", CLI) <= {"varestorer_cli/core/install/hub_backend.py"}
    assert importers("typer", CLI) <= {name(path) for path in [*COMMANDS, *APP]}


def test_the_engine_never_sees_a_path_and_the_batch_never_sees_a_tensor() -> None:
    for part in ("engine.py", "inference.py"):
        engine = set(imports(ROOT / "varestorer_cli" / "core" / "engine" / part))
        assert not {"pathlib", "os", "io"} & engine
        assert not any(module.startswith("varestorer_cli.core.training") for module in engine)
    batch = packages(ROOT / "varestorer_cli" / "core" / "restore" / "batch.py")
    assert not {"torch", "varestorer_models"} & batch


@pytest.mark.parametrize(
    "leaf",
    ["models/varestorer_models/schedule.py", "varestorer_cli/core/errors.py", "varestorer_cli/core/engine/tiling.py"],
)
def test_leaves_import_no_sibling(leaf: str) -> None:
    assert not {"varestorer_models", "varestorer_cli"} & packages(ROOT / leaf)


def test_training_never_imports_commands_and_models_no_core() -> None:
    for path in CORE:
        if "training" in path.parts:
            assert not any(module.startswith("varestorer_cli.commands") for module in imports(path)), name(path)
    for path in MODELS:
        assert "varestorer_cli" not in packages(path), name(path)


def test_only_the_app_ends_the_process() -> None:
    for path in set(CLI) - set(APP):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            text = ast.unparse(node)
            if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
                continue  # a module that is also a tool of its own
            found = re.search(r"\bsys\.exit\(|\braise SystemExit|\bexit\(\)", text)
            assert not found, f"{name(path)}: only app turns exceptions into exit codes"


@pytest.mark.parametrize("path", [*MODELS, *CLI], ids=name)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name(path)} has {lines} lines, {LONGEST} are a bug"


@pytest.mark.parametrize("path", [*MODELS, *CLI], ids=name)
def test_nothing_happens_at_import_time(path: Path) -> None:
    """Module level holds definitions: no seeds, no device choice, no patching of other packages."""
    source = ast.parse(path.read_text(encoding="utf-8"))
    for node in source.body:
        text = ast.unparse(node)
        assert not re.search(
            r"manual_seed|set_num_threads|backends\.\w+\.\w+ =|set_grad_enabled|MAX_IMAGE_PIXELS =", text
        ) or (isinstance(node, ast.FunctionDef | ast.ClassDef)), f"{name(path)}: {text.splitlines()[0]}"
        if isinstance(node, ast.Assign):
            assert all(isinstance(target, ast.Name | ast.Tuple) for target in node.targets), f"{name(path)}: {text}"


@pytest.mark.parametrize(
    "words", [["--help"], ["restore", "--help"], ["score", "--help"], ["doctor", "--help"]], ids=" ".join
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from varestorer_cli.app import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'tifffile', 'pyiqa'} & set(sys.modules);"
        "sys.exit(f'help loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: varestorer" in done.stdout


def test_importing_the_package_does_not_load_torch() -> None:
    program = "import sys, varestorer_cli; assert varestorer_cli.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
