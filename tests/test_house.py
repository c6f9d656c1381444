"""The laws of the house: where imports point, what `modeling/` may do, how long files are, which tests mirror modules,
and the glossary.

Everything is read from the source text; nothing is imported.
"""

import ast
import functools
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE, CLI, TESTS = ROOT / "spectralgpt_hf", ROOT / "spectralgpt_cli", ROOT / "tests"

# What each folder may import of the package, from the ground up. `integrations` stands on the model and on the names of
# embedded checkpoints alone.
MAY_IMPORT: dict[str, set[str]] = {"assets": set(), "modeling": set(), "integrations": {"assets", "modeling"}}
MAY_IMPORT["data"] = MAY_IMPORT["inference"] = {"assets", "files", "modeling"}
MAY_IMPORT["training"] = MAY_IMPORT["serving"] = MAY_IMPORT["data"] | {"data", "inference"}
MAY_IMPORT["hub"] = MAY_IMPORT["training"] | {"training", "serving"}
MAY_IMPORT["conversion"] = MAY_IMPORT["hub"] | {"hub"}
MAY_IMPORT["commands"] = MAY_IMPORT["conversion"] | {"conversion"}

MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent for path in MODULES if path.stem == "__init__" and path.parent != PACKAGE)
MODELING = sorted((PACKAGE / "modeling").glob("*.py"))
# A model file is read as a whole, by the convention of transformers.
LARGEST_FILE, MODEL_FILE = 450, PACKAGE / "modeling" / "modeling_spectralgpt.py"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give the line and the full name of every module that a file imports, wherever in the file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [start, node.module]))
            if node.module:
                yield node.lineno, module
            else:  # `from . import x`, where x may be a module or a name of the package
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("folder", sorted(MAY_IMPORT))
def test_imports_point_downwards(folder):
    known = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    wrong = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for line, module in imported_modules(path, parse(path)):
            first, *rest = module.split(".")
            target = rest[0] if first == "spectralgpt_hf" and rest else ""
            above = target in known - {folder} - MAY_IMPORT[folder] - {"__init__"}
            if above or first == "spectralgpt_cli" or (folder == "modeling" and first == "spectralgpt_hf" and not rest):
                wrong.append(f"{name_of(path)}:{line} imports {module}")
    assert wrong == []


def test_every_folder_has_a_place_in_the_order_of_imports():
    top = {path.relative_to(PACKAGE).parts[0] for path in FOLDERS}
    assert top - set(MAY_IMPORT) == set()


def test_files_imports_nothing_of_the_package():
    modules = {module for _, module in imported_modules(PACKAGE / "files.py", parse(PACKAGE / "files.py"))}
    assert [module for module in modules if module.startswith("spectralgpt")] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_each_folder_says_what_belongs_there_and_what_it_may_import(folder):
    text = ast.get_docstring(parse(folder / "__init__.py")) or ""
    sentence = re.search(r"May import (all but )?([^.]*)\.", text)
    assert sentence, f"{name_of(folder)}/__init__.py: expected a sentence that begins with 'May import'"
    top, *below = folder.relative_to(PACKAGE).parts
    named = set(re.findall(r"`(\w+)`", sentence[2]))
    if sentence[1]:
        named = {"files", *MAY_IMPORT} - named - {top}
    assert named == (MAY_IMPORT[top] | ({top} if below else set())), sentence[0]


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=name_of)
def test_the_command_line_imports_typer_and_the_standard_library_at_module_level(path):
    tree = parse(path)
    outer = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], [])
    roots = {module.split(".")[0] for _, module in imported_modules(path, outer)}
    assert roots - set(sys.stdlib_module_names) - {"typer", "click", "spectralgpt_cli"} == set()


STARTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "help": (["--help"], {}),
    "help of a command": (["predict", "--help"], {}),
    "version": (["--version"], {}),
    "completion": (
        [],
        {"_SPECTRALGPT_COMPLETE": "complete_bash", "COMP_WORDS": "spectralgpt emb", "COMP_CWORD": "1"},
    ),
}


@pytest.mark.parametrize("start", STARTS)
def test_help_and_completion_import_typer_and_little_else(start):
    """Imports are counted, because a clock depends on what else the machine does."""
    arguments, asked = STARTS[start]
    program = (
        "import sys\nsys.argv[0] = 'spectralgpt'\nfrom spectralgpt_cli import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code\n"
        "roots = {name.split('.')[0] for name in sys.modules}\n"
        "print(' '.join(sorted(roots - sys.stdlib_module_names)), len(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **asked})
    assert process.returncode == 0, process.stderr
    assert ("embed" if asked else "spectralgpt") in process.stdout
    *roots, number = process.stderr.splitlines()[-1].split()
    assert not {"torch", "transformers", "numpy", "spectralgpt_hf", "huggingface_hub"} & set(roots)
    assert int(number) < (500 if "help" in start else 330)


def test_the_description_of_a_checkpoint_imports_little_more_than_the_package():
    program = (
        "import sys\nimport spectralgpt_hf\nbefore = set(sys.modules)\n"
        "from spectralgpt_hf.hub import describe_checkpoint\ndescribe_checkpoint('tiny')\n"
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    added = process.stdout.split()
    assert {name.split(".")[0] for name in added} & {"pyarrow", "accelerate", "datasets", "gradio", "pandas"} == set()
    ours = [name for name in added if name.startswith("spectralgpt_hf.")]
    assert "spectralgpt_hf.hub.info" in ours
    assert "spectralgpt_hf.hub.publishing" not in ours
    assert "spectralgpt_hf.inference.prediction" not in ours


# The laws of modeling/: its files are copied next to published weights, where each is loaded as a module of its own.


def test_modeling_is_flat():
    assert [name_of(path) for path in (PACKAGE / "modeling").rglob("*.py") if path not in MODELING] == []


@pytest.mark.parametrize("path", MODELING, ids=name_of)
def test_modeling_files_import_each_other_by_from_x_import_y_only(path):
    wrong = []
    for node in ast.walk(parse(path)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # One dot and a name: `from . import x` and `from ..x import y` cannot be copied.
            if node.level and (node.level > 1 or not node.module or "." in node.module):
                wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
            modules = [node.module or ""] if not node.level else []
        wrong += [f"line {node.lineno}: {module}" for module in modules if module.startswith("spectralgpt")]
    assert wrong == []


REQUIRED = {"torch", "transformers", "numpy", "huggingface_hub", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", MODELING, ids=name_of)
def test_modeling_files_import_what_may_be_missing_at_module_level_inside_try(path):
    tree = parse(path)
    inside = {id(node) for block in tree.body if isinstance(block, ast.Try) for node in block.body}
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots = {(node.module or "").split(".")[0]}
        else:
            continue
        if roots - REQUIRED and id(node) not in inside:
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert wrong == []


def class_names(node: ast.expr) -> Iterator[str]:
    """Give the names of the classes that a check names: `A`, `(A, B)`, `A | B`."""
    yield from (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


@pytest.mark.parametrize("path", MODELING, ids=name_of)
def test_modeling_files_do_not_check_for_classes_of_one_another(path):
    tree = parse(path)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    wrong = []
    for node in ast.walk(tree):
        named: set[str] = set()
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            named = set(class_names(node.args[1]))
        elif isinstance(node, ast.MatchClass):
            named = set(class_names(node.cls))
        elif isinstance(node, ast.Compare) and any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops):
            # `x is Kind.A`, where Kind is an enumeration of another file
            attributes = [
                part for side in node.comparators for part in ast.walk(side) if isinstance(part, ast.Attribute)
            ]
            named = {part.value.id for part in attributes if isinstance(part.value, ast.Name)}
        wrong += [f"line {node.lineno}: {name}" for name in sorted(named & imported)]
    assert wrong == []


# The shape of the package


def test_no_two_modules_share_a_name():
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("folder", [PACKAGE, CLI], ids=name_of)
def test_no_file_is_too_long_to_be_read_at_once(folder):
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in folder.rglob("*.py") if path != MODEL_FILE}
    assert {name: length for name, length in lengths.items() if length > LARGEST_FILE} == {}


def covered_elsewhere() -> dict[str, list[str]]:
    """Read the table of tests/README.md: of each module without a test file of its own, the files that cover it."""
    rows = re.findall(r"^\| `([^`]+\.py)` \| (.+?) \|", (TESTS / "README.md").read_text(), re.MULTILINE)
    return {module: re.findall(r"`([^`]+\.py)`", tests) for module, tests in rows}


def own_test(path: Path) -> Path:
    folder = path.relative_to(PACKAGE).parent
    name = path.stem.removesuffix("_spectralgpt") if path.stem != "modeling_spectralgpt" else path.stem
    return TESTS / folder / f"test_{name}.py"


def test_every_module_has_its_test_file_or_the_readme_of_the_tests_says_where_it_is_covered():
    elsewhere = covered_elsewhere()
    modules = {path.relative_to(PACKAGE).as_posix(): path for path in MODULES if path.stem != "__init__"}
    without = {name for name, path in modules.items() if not own_test(path).is_file()}
    assert without - elsewhere.keys() == set(), "name them in tests/README.md"
    assert elsewhere.keys() - modules.keys() == set(), "tests/README.md names modules that are gone"
    assert [test for tests in elsewhere.values() for test in tests if not (TESTS / test).is_file()] == []
    assert [name for name, tests in elsewhere.items() if not tests] == []


# The glossary: each rule is written in one module, and each concept has one word

HOMES = {
    "token_validity": "modeling/geometry.py",  # a token has data when half of its pixels do
    "offsets_per_band": "modeling/products.py",
    "IGNORE_INDEX": "modeling/configuration_spectralgpt.py",
    "MAP_NODATA": "inference/maps.py",
    "TileGrid": "modeling/tiling.py",
    "choose_classes": "modeling/post_processing.py",
    "front_matter": "hub/cards.py",
    "atomic_path": "files.py",
}


def defined_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_each_rule_is_defined_in_one_module():
    found = Counter(
        (name, path.relative_to(PACKAGE).as_posix())
        for path in MODULES
        for name in defined_names(parse(path))
        if name in HOMES
    )
    assert dict(found) == dict.fromkeys(HOMES.items(), 1)


def test_the_label_to_ignore_and_the_nodata_value_of_maps_are_numbers_in_one_module_each():
    homes = {(PACKAGE / HOMES[name]): name for name in ("IGNORE_INDEX", "MAP_NODATA")}
    wrong = []
    for path in [*MODULES, *CLI.glob("*.py")]:
        for node in ast.walk(parse(path)):
            named: list[tuple[str, ast.expr | None]] = []
            if isinstance(node, ast.keyword):
                named = [(node.arg or "", node.value)]
            elif isinstance(node, ast.Assign):
                named = [(ast.unparse(target), node.value) for target in node.targets]
            elif isinstance(node, ast.AnnAssign):
                named = [(ast.unparse(node.target), node.value)]
            elif isinstance(node, ast.arguments):
                positional = [*node.posonlyargs, *node.args]
                named = [(a.arg, d) for a, d in zip(positional[::-1], node.defaults[::-1])]
                named += [(a.arg, d) for a, d in zip(node.kwonlyargs, node.kw_defaults)]
            for name, value in named:
                is_255 = isinstance(value, ast.Constant) and value.value == 255
                if is_255 and re.search("ignore|nodata", name, re.IGNORECASE) and name != homes.get(path):
                    wrong.append(f"{name_of(path)}: {name} = 255")
    assert wrong == []


FORBIDDEN = {
    r"\b(?:hide|hides|hiding)\b": "mask",
    r"\brebuil\w*": "reconstruct",
    r"\btrivial answers?\b": "simple baselines",
    r"\bnobody\b|\bis told\b|\bare told\b": "a sentence with a subject that acts",
    r"(?<!in )(?<!into )(?<!take )(?<!takes )\bplaces?\b(?! of)": "patch position, site or tile origin",
    r"^ +[\w, `]+: (?:Of|Whose) ": "a description that needs no neighbour",
    r"\bone (?:vector|row|band|line|pixel) an? \w+": "per",
}


@pytest.mark.parametrize("path", [*MODULES, *sorted(CLI.glob("*.py"))], ids=name_of)
def test_texts_use_the_words_of_the_glossary(path):
    wrong = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            continue
        for pattern, better in FORBIDDEN.items():
            for found in re.finditer(pattern, token.string, re.MULTILINE | re.IGNORECASE):
                wrong.append(f"line {token.start[0]}: {found[0].strip()!r}: write {better}")
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_bands_are_selected_or_expected_and_band_names_are_those_of_the_input(path):
    """`bands` never describes what a file or an input holds. Its names are `band_names`."""
    wrong = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(node) or ""
            described = re.search(r"^ +bands: (.*(?:\n {8,}.*)*)", text, re.MULTILINE)
            if described and re.search(
                r"\b(?:input|inputs|files|file)\b.*\b(?:hold|holds|names|state)\b"
                r"|[Nn]ames? of (?:the C|each|all) bands?|[Nn]ame of each band of (?:the|an) image",
                described[1],
            ):
                wrong.append(f"{node.name}: {described[1]}")
    assert wrong == []


def test_every_test_that_holds_a_defect_exists():
    named = re.findall(r"`([^`]+\.py)::(\w+)`", (TESTS / "DEFECTS.md").read_text())
    assert named
    missing = []
    for file, name in named:
        path = TESTS / file
        if not path.is_file() or not re.search(rf"^ *def {name}\(", path.read_text(), re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_distribution_holds_every_folder_and_every_file_of_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [PACKAGE, CLI, *FOLDERS]
    assert sorted(settings["packages"]) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
    listed = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    data = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data - listed == set()


def test_the_version_is_written_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "spectralgpt_hf.__version__"}
    version = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    assert version
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
