"""Which lines of the package the tests run, at a few per cent of their time: ``--line-coverage``.

coverage.py's tracer makes training loops half as slow again on Python 3.11, since it is asked at
every call. Here the hook that adds the checks of shapes also puts a mark before every statement:
``__ran__[line] = 1``. coverage.py gets the marked lines, knows which lines count, and reports; its
settings are in pyproject.toml. Forked processes are measured, and programs that import ``counted``;
other programs that tests start are not, so the figure is a lower bound.
"""

from __future__ import annotations

import ast
import atexit
import copyreg
import json
import mmap
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
import shapes

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlgrad"
ran: dict[str, mmap.mmap] = {}
"""By file, for each line 1 where its statement was reached; in memory that forks share."""

FOLDER = "RLGRAD_LINES"
"""Variable that names where programs leave what they have marked."""
# Ray sends functions to its processes with the names that they use.
copyreg.pickle(mmap.mmap, lambda marks: (bytearray, (len(marks),)))


def mark(line: int, at: ast.stmt) -> ast.stmt:
    """``__ran__[line] = 1``, in the place of another statement."""
    (made,) = ast.parse(f"__ran__[{line}] = 1").body
    for node in ast.walk(made):
        ast.copy_location(node, at)
    return made


def marked(body: Sequence[ast.stmt], *before: int) -> list[ast.stmt]:
    """Statements with their marks; ``before`` are lines that are reached with the first one."""
    statements: list[ast.stmt] = []
    for i, each in enumerate(body):
        text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
        future = isinstance(each, ast.ImportFrom) and each.module == "__future__"
        lines = [each.lineno, *(d.lineno for d in getattr(each, "decorator_list", []))]
        marks = [mark(line, each) for line in [*lines, *(before if i == 0 else ())]]
        if text and i == 0:  # a docstring comes first, and is no line that runs
            marks = []
        statements += [each, *marks] if future else [*marks, each]
        for name in ("body", "orelse", "finalbody"):
            if block := getattr(each, name, None):
                setattr(each, name, marked(block))
        tried: list[int] = []  # a handler or case was tried if it or a later one is entered
        for part in (*getattr(each, "handlers", ()), *getattr(each, "cases", ())):
            tried.append(part.lineno if hasattr(part, "lineno") else part.pattern.lineno)
            part.body = marked(part.body, *tried)
    return statements


def marks_of(path: str) -> mmap.mmap:
    """The marks of a file, one for each line."""
    if path not in ran:
        ran[path] = mmap.mmap(-1, Path(path).read_bytes().count(b"\n") + 2)
    return ran[path]


class Loader(SourceFileLoader):
    """Adds checks, and marks if lines are measured; keeps no bytecode, which has neither."""

    measure, check = False, True

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = ast.parse(data, path)
        if self.measure:
            tree.body = marked(tree.body)
        if self.check:
            tree = shapes.Decorate().visit(tree)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: Any) -> None:
        module.__checked__ = shapes.checked
        if self.measure:
            module.__ran__ = marks_of(self.path)
        super().exec_module(module)


class Finder(MetaPathFinder):
    """Gives modules of the package that loader."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] != PACKAGE.name:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install(measure: bool) -> None:
    """The hook that checks shapes, which counts lines too if they are to be measured."""
    Loader.measure = measure
    sys.meta_path.insert(0, Finder())
    if measure and FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="lines")


def follow() -> None:
    """In a program that a test starts: count lines, if the test's are counted; check nothing."""
    folder = os.environ.get(FOLDER)
    if folder is None or any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    Loader.check = False
    install(True)
    atexit.register(lambda: Path(folder, f"{os.getpid()}.json").write_text(json.dumps(lines())))


def lines() -> dict[str, list[int]]:
    """Marked lines by file."""
    return {path: [i for i, mark in enumerate(marks[:]) if mark] for path, marks in ran.items()}


def merge(others: dict[str, Iterable[int]]) -> None:
    """Take in what another process has marked."""
    for path, found in others.items():
        marks = marks_of(path)
        for line in found:
            marks[line] = 1


def report(out: Any) -> float:
    """Print coverage.py's table of what is missing, and give the share of lines in per cent."""
    import coverage

    measured = coverage.Coverage(data_file=None, config_file=str(ROOT / "pyproject.toml"))
    measured.get_data().add_lines(lines())
    measured.get_data().touch_files([str(path) for path in PACKAGE.rglob("*.py")])
    return measured.report(file=out)


class Plugin:
    """Collects the marks of all test processes and fails a run that leaves too much unmarked."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker of xdist: hand the marks to the process that reports."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["lines"] = lines()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Where xdist reports: take them."""
        merge(getattr(node, "workeroutput", {}).get("lines", {}))

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Print the table above the closing line; below the limit the run has failed."""
        import coverage

        terminalreporter.section("lines of the package that ran")
        for path in Path(os.environ[FOLDER]).glob("*.json"):
            merge(json.loads(path.read_text()))
        share = report(terminalreporter._tw._file)
        settings = coverage.Coverage(config_file=str(ROOT / "pyproject.toml"))
        least = float(settings.get_option("report:fail_under") or 0)
        if share < least:
            terminalreporter.line(f"coverage of {share:.2f} % is below {least:.0f} %", red=True)
            terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
