"""The order of the rooms, and the proportions of what is in them."""

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1] / "jaxir"
# From top to bottom; a room imports from lower lines only. A room is a folder of jaxir/, or a file
# that lies right in it, and "jaxir" itself gives users what stands in retriever and retrieval.
LAYERS = [
    {"train", "encode", "search", "mine", "export", "evaluate"},
    {"sweep"},
    {"bench", "serve", "mteb"},
    {"plan"},  # bench knows the chips from it
    {"model_flags"},
    {"jaxir"},
    {"retriever", "tasks"},
    {"vision.training"},
    {"vision.clipscore"},
    {"vision.evaluation"},
    {"vision.models"},
    {"vision.data"},
    {"training"},
    {"benchmarks"},
    {"evaluation"},
    {"retrieval"},
    {"models", "data"},
    {"command_line"},
    {"runtime"},
    {"config"},
    {"progress", "errors"},
]
LEVEL = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}
SAYS_LITTLE = re.compile(r"(What|Which|How|Whether|Where|When|As|Of|By|The same|One|Some|Each)\b")
FILES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def _room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1]) or parts[0].replace("__init__", "jaxir")


def _file(module):
    """The file of a module's dotted name, None where there is none."""
    path = ROOT.parent.joinpath(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f in FILES), None)


def _imports(tree):
    """Lines and files of all imports of the package, also those in functions.

    Not of jaxir itself for its version: it is imported before any of its modules.
    """
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names if alias.name != "jaxir"]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            names = [name for name in names if name[0] != "jaxir.__version__"]
        for name, module in names:
            if name.split(".")[0] == "jaxir" and (file := _file(name) or _file(module or name)):
                yield node.lineno, file


def _none(offences):
    assert not offences, "\n" + "\n".join(offences)


def test_every_room_has_its_place():
    assert sum(map(len, LAYERS)) == len(LEVEL)
    # a folder of folders holds no code of its own
    rooms = {
        _room(path): path
        for path, tree in FILES.items()
        if path.stem != "__init__" or tree.body[1:]
    }
    _none([f"{path}: put its room in LAYERS" for room, path in rooms.items() if room not in LEVEL])


def test_no_import_runs_upwards_or_closes_a_circle():
    found = []
    for path, tree in FILES.items():
        for line, file in _imports(tree):
            room, other = _room(path), _room(file)
            # what only goes down goes round in no circle
            if room != other and LEVEL.get(other, 99) >= LEVEL.get(room, 99):
                found.append(f"{path}:{line}: {room} imports {other}")
    _none(found)


def test_a_room_of_vision_has_at_most_twelve_files():
    counts = Counter(path.parent for path in FILES if path.stem != "__init__")
    _none([f"{room}: {n} files" for room, n in counts.items() if "vision" in str(room) and n > 12])


def test_no_file_is_over_350_lines():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    _none([f"{path}: {lines} lines" for path, lines in lengths.items() if lines > 350])


def _definitions(kinds):
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield f"{path}:{getattr(node, 'lineno', 1)}", node


def test_no_function_is_over_60_lines():
    functions = _definitions((ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = [(f"{at} {node.name}", node.end_lineno - node.lineno + 1) for at, node in functions]
    _none([f"{at}: {lines} lines" for at, lines in lengths if lines > 60])


def test_docstrings_begin_with_what_the_thing_is():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    documented = ((at, ast.get_docstring(node) or "") for at, node in _definitions(kinds))
    vague = [f"{at}: {doc.splitlines()[0]}" for at, doc in documented if SAYS_LITTLE.match(doc)]
    assert len(vague) < 20, f"{len(vague)}\n" + "\n".join(vague)
