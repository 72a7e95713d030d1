"""Limits on the tree that no linter knows. Each is a rule of the project, so that nobody has to remember it."""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(file.parent for file in ROOT.glob("*/finetune_*/__init__.py"))


@cache
def tracked_files() -> list[Path]:
    """The files of the project as git knows them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize(
    "folder", ["api", "core", "operator", "trainer-image", "sdk", "cli", "cluster", "demo"]
)
def test_a_folder_of_packages_is_no_package(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists(), (
        "it would shadow a module of Python's own, or stand in the way"
    )


# the names are put together here, so that this file does not contain what it forbids
PACKAGE_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
        ("conda", "anaconda", "org"),
    )
]
FORBIDDEN = {
    "the host of a package registry": re.compile("|".join(map(re.escape, PACKAGE_HOSTS)), re.IGNORECASE),
    "an index chosen for everyone": re.compile(r"(index-url|GOPROXY)\W{1,3}https?:" + "//", re.IGNORECASE),
    "a path of one machine": re.compile(
        r"(?<![\w.~}/-])/(" + "|".join(["root", "work", "Users", "home(?!/finetune)"]) + r")/\w"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_what_only_one_machine_or_network_has(what: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for file, number, line in lines_of_text()
        if FORBIDDEN[what].search(line)
    ]
    assert found == []


def lines_of_text() -> Iterator[tuple[Path, int, str]]:
    files = tracked_files()
    assert len(files) > 50
    for file in files:
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            yield file, number, line


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("the host of a package registry", f"pip install -i https://{PACKAGE_HOSTS[0]}/x"),
        ("an index chosen for everyone", "--index-" + "url https" + "://mirror/simple"),
        ("a path of one machine", "cd /" + "home/somebody/project"),
    ],
)
def test_the_patterns_find_what_they_are_for(what: str, line: str) -> None:
    assert FORBIDDEN[what].search(line)


def function_lengths(package: Path) -> list[int]:
    """Lines of every function, with its docstring."""
    nodes = (node for file in sorted(package.rglob("*.py")) for node in ast.walk(ast.parse(file.read_text())))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_functions_are_short(package: Path) -> None:
    lengths = function_lengths(package)
    assert statistics.median(lengths) <= 14
    assert statistics.quantiles(lengths, n=10)[-1] <= 50


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_module_says_what_it_is_responsible_for(package: Path) -> None:
    modules = [file for file in package.rglob("*.py") if file.read_text().strip()]
    assert modules
    silent = [
        str(file.relative_to(ROOT)) for file in modules if not ast.get_docstring(ast.parse(file.read_text()))
    ]
    assert silent == []


def test_all_our_packages_are_measured() -> None:
    names = {package.name for package in PACKAGES}
    assert {
        "finetune_api",
        "finetune_core",
        "finetune_operator",
        "finetune_trainer",
        "finetune_sdk",
        "finetune_cli",
        "finetune_cluster",
    } <= names


def test_the_readme_is_read_in_one_sitting() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines
    assert len(lines) <= 150


def test_the_tree_that_is_printed_is_the_tree_that_is_there() -> None:
    printed = {name for name in ("README.md", "CONTRIBUTING.md") if printed_folders(name)}
    if not (ROOT / "CONTRIBUTING.md").exists() and not printed:
        pytest.skip("neither CONTRIBUTING.md nor a tree in README.md is written yet")
    assert printed, "CONTRIBUTING.md or README.md prints the tree: a code block with one `folder/` a line"
    there = {
        file.relative_to(ROOT).parts[0] for file in tracked_files() if len(file.relative_to(ROOT).parts) > 1
    }
    for name in printed:
        assert {folder for folder in printed_folders(name) if folder != ".ci"} == there - {".ci"}


def printed_folders(name: str) -> set[str]:
    """The folders at the beginning of lines of the code block that prints the tree; empty without one."""
    file = ROOT / name
    blocks = (
        re.findall(r"^```[a-z]*\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
        if file.exists()
        else []
    )
    for block in blocks:
        folders = set(re.findall(r"^([.a-z][\w.-]*)/", block, re.MULTILINE))
        if "api" in folders:
            return folders
    return set()


def test_the_trainer_image_has_no_scipy() -> None:
    """It takes 143 MB; only the script image, with scikit-learn, has it."""
    pinned = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("trainer", "scripts")}
    assert re.search("^scipy==", pinned["scripts"], re.MULTILINE)
    assert not re.search("^(scipy|scikit-learn)==", pinned["trainer"], re.MULTILINE)
