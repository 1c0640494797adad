"""The manual: its snippets run, its links lead somewhere, its tables say what the code says."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RUNNING = ("README.md", "docs/environment.md", "docs/agents.md")
"""Pages with snippets to run, in this order, in one folder and one namespace."""
OURS = ("nmg", "envs", "agents")


@dataclass(frozen=True)
class Snippet:
    """A Python block of a page; ``python run`` after the fence marks one that can be run."""

    page: Path
    line: int
    runs: bool
    source: str

    def compiled(self):
        """Its code, with the line numbers of the page."""
        name = str(self.page.relative_to(ROOT))
        return compile("\n" * self.line + self.source, name, "exec")


def snippets(page: Path) -> Iterator[Snippet]:
    start, lines = None, page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if start is None and line.startswith("```python"):
            start = number
        elif start is not None and line.startswith("```"):
            source = "\n".join(lines[start + 1 : number])
            yield Snippet(page, start + 1, "run" in lines[start].split()[1:], source)
            start = None


def table(page: str, column: str) -> dict[str, list[str]]:
    """Rows of the first table of a page whose first heading is ``column``, by their first cell."""
    rows: dict[str, list[str]] | None = None
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("| ").split("|")]
        if rows is None:
            rows = {} if cells[0] == column else None
        elif not line.startswith("|"):
            return rows
        elif not set(cells[0]) <= set("-: "):
            rows[cells[0]] = cells[1:]
    raise AssertionError(f"{page} has no table of {column}")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    done = 0
    for page in RUNNING:
        for snippet in snippets(ROOT / page):
            if snippet.runs:
                exec(snippet.compiled(), namespace)
                done += 1
    assert done


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_import_what_there_is(page):
    for snippet in snippets(page):
        for node in ast.walk(ast.parse(snippet.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, (
                    f"{page.name}, line {snippet.line}: {node.module} has no {missing}"
                )


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:nmg|envs|agents|tests|examples|configs)/[\w/.]+\.\w+)", page.read_text()
    )
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page):
    for file, name in re.findall(r"`(test_\w+)::(test_\w+)`", page.read_text(encoding="utf-8")):
        source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source, f"{page.name} names {file}::{name}"


def shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_table_of_the_environments_arguments():
    from envs.masking_env import MaskingEnv

    parameters = inspect.signature(MaskingEnv).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    given["higher_is_better"] = '{"nll": False}'
    rows = table("docs/environment.md", "argument")
    assert {name: cells[0] for name, cells in rows.items()} == {
        name: value if name == "higher_is_better" else shown(value) for name, value in given.items()
    }
