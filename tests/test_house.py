"""Rules of the house that import-linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("common", "ingest", "train", "score")
MODULES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
PROGRAMS = MODULES + sorted(
    path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py") if path.is_file()
)
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".lock", ".cfg", ".ini", ".sh", ".json", ""}

# Where a URL may be opened, and by what.
NETWORK = {"s3fs", "fsspec", "botocore", "boto3", "aiobotocore", "aiohttp", "requests", "urllib3", "httpx", "http"}
NETWORK |= {"urllib.request", "ftplib", "huggingface_hub"}
STORE = {"common/store/s3.py", "common/store/s3_errors.py"}
# DuckDB is shown the store as a file system: the abstract class, which opens nothing.
INTERFACES = {"score/analysis/sql.py": {"fsspec.spec"}}
# Weights that a wheel does not carry come once from where they were published.
DOWNLOADS = {"common/download.py": {"urllib.request", "huggingface_hub"}}

HEAVY = {"torch", "torchvision", "timm", "ray", "av", "cv2", "decord", "deepspeed", "facenet_pytorch", "retinaface"}
HEAVY |= {"open_clip", "huggingface_hub", "matplotlib"}
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names of what is imported: `from a.b import c` is a.b and a.b.c."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def among(names: set[str], forbidden: set[str]) -> set[str]:
    return {name for name in names for root in forbidden if name == root or name.startswith(f"{root}.")}


def at_import_time(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not those of functions, nor those for type checkers alone."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from at_import_time(statement.orelse)
            continue
        yield statement
        for field in ("body", "orelse", "finalbody"):
            yield from at_import_time(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from at_import_time(handler.body)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    assert not among(imports(ast.walk(tree_of(path))), UNPICKLERS)
    for function, call in calls(path):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if function in ("torch.load", "load_state_dict_from_url") or function.endswith(".load_state_dict_from_url"):
            assert options.get("weights_only") == "True", f"{name_of(path)}:{call.lineno}"
        if function.rpartition(".")[2] in ("read_pickle", "unsafe_load", "full_load"):
            pytest.fail(f"{name_of(path)}:{call.lineno} {function}")
        if function in ("np.load", "numpy.load"):
            assert options.get("allow_pickle", "False") == "False", f"{name_of(path)}:{call.lineno}"
        assert function not in ("yaml.load", "yaml.load_all"), f"{name_of(path)}:{call.lineno} use yaml.safe_load"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_store_opens_urls(path: Path) -> None:
    if name_of(path) in STORE:
        return
    allowed = INTERFACES.get(name_of(path), set()) | DOWNLOADS.get(name_of(path), set())
    used = among(imports(ast.walk(tree_of(path))), NETWORK)
    assert not used - among(used, allowed)


MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 60


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_a_module_and_its_functions_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{name_of(path)}:{node.lineno} {node.name}"


def when_run(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all in it, functions included, but not what is for type checkers alone."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    for child in children:
        yield from when_run(child)


def test_no_module_needs_itself_through_others() -> None:
    """Imports within functions count as well: a circle that they hide is one nevertheless."""
    dotted = {name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in MODULES}
    needs = {name: imports(when_run(tree_of(path))) & set(dotted) - {name} for name, path in dotted.items()}
    while free := [name for name, needed in needs.items() if not needed]:
        needs = {name: needed - set(free) for name, needed in needs.items() if name not in free}
    # What is left needs something that is left: the circles, and who depends on them.
    assert needs == {}


ENVIRONMENT = {f"os.{name}" for name in ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")}


@pytest.mark.parametrize("path", PROGRAMS, ids=name_of)
def test_only_one_module_touches_environment_variables(path: Path) -> None:
    if name_of(path) == "common/environment.py":
        return
    nodes = list(ast.walk(tree_of(path)))
    touched = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} | imports(iter(nodes))
    assert not touched & ENVIRONMENT, "name the variable in common/environment.py"


COMMAND_MODULES = [path for path in MODULES if path.name == "cli.py"]


@pytest.mark.parametrize("path", COMMAND_MODULES, ids=name_of)
def test_commands_import_nothing_heavy_before_they_are_called(path: Path) -> None:
    assert not among(imports(at_import_time(tree_of(path).body)), HEAVY)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_takes_seconds_to_import_is_imported_where_it_is_used(path: Path) -> None:
    """A recipe with a kind of encoder is read, and a bundle opened, without the libraries that build the network."""
    assert not among(imports(at_import_time(tree_of(path).body)), {"open_clip", "timm", "deepspeed"})


def test_deepspeed_is_imported_where_training_runs_and_nowhere_that_scoring_looks() -> None:
    users = {name_of(path) for path in MODULES if among(imports(iter(list(ast.walk(tree_of(path))))), {"deepspeed"})}
    # Of train, score may import the models alone.
    assert users == {"train/engines.py", "train/processes.py", "train/zero.py"}


def test_help_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from common.cli import main; status = main(['--help']); "
        "print('IMPORTED', *sorted({name.partition('.')[0] for name in sys.modules})); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert "click" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_in_a_docstring_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    assert not tree.body or ast.get_docstring(tree)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and Path(name).suffix in TEXTS]


def test_no_tracked_text_names_a_package_host_or_a_folder_of_a_persons_machine() -> None:
    # Put together here, so that this file does not name them either.
    hosts = [
        "files" + ".pythonhosted",
        "pypi" + ".org",
        "--index-url ",
        "registry" + ".npmjs",
        "download" + ".pytorch",
        "conda" + ".anaconda",
    ]
    folders = ["/home/" + r"\w", "/Users/" + r"\w", "/root/" + r"\w"]
    pattern = re.compile("|".join([*(re.escape(host) for host in hosts), *folders]))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.is_file() and path != Path(__file__)
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_the_arrows_between_the_parts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
