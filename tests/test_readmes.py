"""READMEs and configs' docstrings: their commands, fields, files, links and Python are true."""

import ast
import glob
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from jaxir import command_line
from jaxir.config import CONFIGS
from jaxir.data.collection import read_collection
from jaxir.errors import UserError

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "fixtures" / "labse"  # tiny and random
PAGES = subprocess.run(
    ["git", "ls-files", "*README.md", "CONTRIBUTING.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
DOCSTRINGS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("configs/[a-z]*.py"))]
README_LINES, README_WORDS, PAGE_LINES = 150, 900, 200
# words of a page that a user replaces, and what a test puts in their place
PLACEHOLDERS = {"NAME.py": "demo.py", "CONFIG": "tpu_v4.py", "BATCH": "2048"}
OWN_CONFIG = "mine.py"  # the config that a page's Python block holds
NOT_FILES = (OWN_CONFIG, "__main__.py")
TESTS = ("python -m pytest", "pytest")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, kind):
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def prose(page):
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def spans(page):
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page):
    """The commands of a page, or of a config's docstring."""
    if page.endswith(".py"):
        doc = str(ast.get_docstring(ast.parse(text_of(page))))
        lines = re.findall(r"^    (\S(?:.*\\\n)*.*)", doc, re.MULTILINE)
    else:
        lines = [line for block in blocks(page, "bash") for line in block.splitlines() if line]
        lines += [span for span in spans(page) if re.match(r"(python -m|pytest|pip) ", span)]
    lines = [re.sub(r"\\\n\s*", "", line) for line in lines]
    return [part.strip() for line in lines for part in line.split("&&")]


class Parsed(BaseException):
    """Stops a command as soon as its flags are read and valid."""


@pytest.fixture
def parse_only(monkeypatch, tmp_path):
    """Runs a command up to the end of reading its flags and its config, which is validated."""
    parse, parse_config = command_line.parse, command_line.parse_config

    def stop_after_flags(argv, values, *args, **options):
        words = parse(argv, values, *args, **options)
        if "config" in values:
            return words
        raise Parsed

    def stop_after_config(*args):
        parse_config(*args)
        raise Parsed

    def run(words, page):
        for block in blocks(page, "python") if page.endswith(".md") else []:
            if "def get_config" in block:
                (tmp_path / OWN_CONFIG).write_text(block)
        (tmp_path / "configs").symlink_to(ROOT / "configs")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", words)  # where ml_collections looks for overrides
        module = importlib.import_module(main_module(words[0]))
        with pytest.raises(Parsed):
            module.main(words)

    monkeypatch.setattr(command_line, "parse", stop_after_flags)
    monkeypatch.setattr(command_line, "parse_config", stop_after_config)
    return run


def main_module(name):
    """The module that `python -m` runs."""
    spec = importlib.util.find_spec(name)
    assert spec, f"no module {name}"
    return f"{name}.__main__" if spec.submodule_search_locations else name


# ml_collections loads a config's file so
config_files_are_loaded = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.parametrize(
    ("page", "item"),
    [(page, item) for page in PAGES + DOCSTRINGS for item in dict.fromkeys(commands(page))],
)
@config_files_are_loaded
def test_a_command_names_what_exists(page, item, parse_only):
    for word, value in PLACEHOLDERS.items():
        item = re.sub(rf"(?<![\w-]){re.escape(word)}(?!\w)", value, item)
    words = shlex.split(item)
    if item.startswith(TESTS):
        check_tests(words[words.index("pytest") + 1 :])
    elif words[:2] == ["python", "-m"]:
        check_bench(words[2:])
        parse_only(words[2:], page)
    elif words[0] == "pip":
        assert {"install"} <= set(words)
        extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
        for extra in re.findall(r"\[(\w+)\]", item):
            assert extra in extras
    elif words[0] == "export":
        for setting in words[1:]:
            assert setting.split("=")[0] in text_of("tpu/settings.sh")
    else:
        assert (ROOT / words[0]).is_file(), f"{words[0]}: no such command"
        if words[1:]:  # of a script that hands them to jaxir.train
            parse_only(["jaxir.train", *words[1:]], page)


def check_bench(words):
    """The name of a measurement, which is in the help."""
    if words[0] == "jaxir.bench" and words[1] != "NAME" and not words[1].startswith("-"):
        help_text = importlib.import_module("jaxir.bench.__main__").__doc__
        assert f"`{words[1]}`" in help_text


def check_tests(words):
    """The files, options and selections of a call of pytest."""
    values = {"-m": 1, "-n": 1, "-k": 1, "--kills": 1, "-s": 0}
    files, chosen, rest = [], "", list(words)
    while rest:
        word = rest.pop(0)
        if word in values:
            value = rest.pop(0) if values[word] else ""
            chosen = value if word == "-k" else chosen
        else:
            found = glob.glob(str(ROOT / word))
            assert found, f"{word}: no such test file"
            files += found
    tests = [
        name for file in files for name in re.findall(r"def (test_\w+)", Path(file).read_text())
    ]
    assert not chosen or any(chosen in name for name in tests), f"-k {chosen}: no such test"


@cache
def help_of(*words):
    """What a command prints for --help."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *args, **_: lines.append(" ".join(map(str, args))))
        module = importlib.import_module(main_module(words[0]))
        assert module.main([*words, "--help"]) in (0, None)
    return "\n".join(lines)


HELPS = [
    *(("jaxir." + name,) for name in ("train", "encode", "search", "mine", "export", "evaluate")),
    *(("jaxir." + name,) for name in ("sweep", "bench", "plan", "serve", "vision.clipscore")),
    ("jaxir.sweep", "report"),
]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_has_flags(words):
    assert re.search(r"^  --\w+: \w", help_of(*words), re.MULTILINE)


every_page = pytest.mark.parametrize("page", PAGES)


@every_page
def test_flags_are_those_of_some_command(page):
    helps = "\n".join(help_of(*words) for words in HELPS)
    known = {*re.findall(r"^  --(\w+):", helps, re.MULTILINE), "help", "kills"}
    known |= {f"no{name}" for name in known}
    named = [name for span in spans(page) for name in re.findall(r"(?<!\S)--(\w+)", span)]
    assert not set(named) - known


@cache
def config_fields():
    """Fields and sections of all configs, by their full names."""
    lines = [line for kind in CONFIGS.values() for line in command_line.field_help(kind())]
    names = [line.split("=")[0].strip().removeprefix("--config.").split(".") for line in lines]
    return {".".join(name[:n]) for name in names for n in range(1, len(name) + 1)}


@every_page
def test_config_fields_exist(page):
    sections = "|".join(name for name in config_fields() if "." not in name)
    pattern = rf"(?:config\.)?((?:{sections})\.(?!py$|jsonl)[a-z_.0-9]+)(?:=.*)?"
    named = [match[1] for span in spans(page) if (match := re.fullmatch(pattern, span))]
    assert not set(named) - config_fields()


@every_page
def test_files_and_folders_exist(page):
    """Inline code that looks like a path in the repository, also from the page's own folder."""
    folders = [ROOT, (ROOT / page).parent, ROOT / "configs", ROOT / "tpu"]
    tops = {path.name for folder in folders[:2] for path in folder.iterdir() if path.is_dir()}
    pattern = r"(?P<top>[\w-]+)/[\w./*-]*|[\w*-]+\.(py|sh|ipynb|toml)"
    named = [match for span in spans(page) if (match := re.fullmatch(pattern, span))]
    named = [match[0] for match in named if match["top"] is None or match["top"] in tops]
    ours = [name for name in named if name not in NOT_FILES and not re.search("[A-Z]{3}", name)]
    assert not [x for x in ours if not any(glob.glob(str(folder / x)) for folder in folders)]


@every_page
def test_dotted_names_resolve(page):
    for name in [span for span in spans(page) if re.fullmatch(r"jaxir(\.\w+)+", span)]:
        module, _, attribute = name.rpartition(".")
        if not importlib.util.find_spec(name):
            assert hasattr(importlib.import_module(module), attribute), name


@every_page
def test_names_stand_in_the_files_that_they_are_said_to_stand_in(page):
    """`NAME` of [path](path)."""
    for name, path in re.findall(r"`(\w+)` of \[[^\]]+\]\(([^)]+)\)", prose(page)):
        text = ((ROOT / page).parent / path).read_text(encoding="utf-8")
        assert re.search(rf"\b{name}\b", text), f"{name} of {path}"


def anchors(path):
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@every_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = ((ROOT / page).parent / path) if path else ROOT / page
            assert target.exists(), link
            assert target.resolve().is_relative_to(ROOT), link
            assert not anchor or anchor in anchors(target), link


@every_page
def test_python_imports_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("jaxir"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names)


def run_block(block):
    """The names that a Python block leaves."""
    names = {}
    exec(compile(block, "README", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:.*were cut there")
def test_python_runs(tmp_path, monkeypatch, capsys):
    """Every block but those of sentence-transformers, the index of the first README for others."""
    for name in ("RUN", "MODEL"):
        shutil.copytree(MODEL, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for page in sorted(PAGES, key=lambda page: page != "README.md"):
        for block in blocks(page, "python"):
            if "sentence_transformers" not in block:
                names = run_block(block)
                if page == "README.md" and "index" in names:
                    names["index"].save("INDEX")
    assert "Donau" in capsys.readouterr().out


def test_the_rows_in_the_readme_are_training_data(tmp_path):
    (rows,) = blocks("README.md", "json")
    (tmp_path / "train.jsonl").write_text(rows)
    (block,) = [block for block in blocks("README.md", "python") if "def get_config" in block]
    data = run_block(block)["get_config"]().data
    data.directory = str(tmp_path)
    counts = read_collection(data).report
    assert counts["rows"] == len(rows.splitlines()) == 2
    assert counts["groups"] == 1
    assert counts["queries"] == counts["passages"] == {"de": 1, "en": 1}


@every_page
def test_a_page_is_short_and_closes_its_blocks(page):
    text = text_of(page)
    assert len(text.splitlines()) <= (README_LINES if page == "README.md" else PAGE_LINES)
    fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "python", "json", "text"}
    assert set(fences[1::2]) <= {""}


def test_the_readme_is_one_screen_after_another():
    assert len(prose("README.md").split()) <= README_WORDS
    headings = re.findall(r"^## (.*)$", prose("README.md"), re.MULTILINE)
    assert headings[0] == "Quick start"
    section = text_of("README.md").split("## Quick start")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(block.splitlines()) == 2  # .ci/run reads the second


@pytest.mark.parametrize(
    "command",
    [
        "jaxir.train --config demo.py --workdirs DIR",
        "jaxir.train --config demo.py --config.optimiser.learning_rate=1",
        "jaxir.train --config demo.py --config.batch_size=0",
        "jaxir.train --config no_such_config.py",
        "jaxir.encode --models MODEL",
        "jaxir.sweep report DIR --tasks x",
    ],
)
@config_files_are_loaded
def test_a_mistake_in_a_command_is_found(command, parse_only):
    with pytest.raises(UserError):
        parse_only(command.split(), "README.md")
