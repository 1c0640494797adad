"""The manual: its snippets run, its links lead somewhere, its tables say what the code says."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from agents.settings import AgentSettings

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RUNNING = ("README.md", "docs/environment.md", "docs/agents.md")
"""Pages with snippets to run, in this order, in one folder and one namespace."""
OURS = ("nmg", "envs", "agents")


@dataclass(frozen=True)
class Snippet:
    """A Python block of a page; the marks are the words after ``python`` at its fence.

    ``run``: is run with all others, in order; ``run slow``: by itself, with the slow tests.
    """

    page: Path
    line: int
    marks: tuple[str, ...]
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
            yield Snippet(page, start + 1, tuple(lines[start].split()[1:]), source)
            start = None


def tables(page: str, column: str) -> list[dict[str, list[str]]]:
    """The tables of a page whose first heading is ``column``: rows by their first cell."""
    found: list[dict[str, list[str]]] = []
    inside = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("| ").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == column:
            inside = True
            found.append({})
        elif inside and not line.startswith("|-"):
            found[-1][cells[0]] = cells[1:]
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    marked = [s for page in RUNNING for s in snippets(ROOT / page) if s.marks == ("run",)]
    assert marked
    for snippet in marked:
        exec(snippet.compiled(), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_slow_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NMG_CACHE", str(tmp_path))
    for snippet in snippets(page):
        if snippet.marks == ("run", "slow"):
            exec(snippet.compiled(), {"__name__": "docs"})


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
    """A value as the tables write it."""
    if isinstance(value, tuple):
        return ", ".join(value)
    return f'"{value}"' if isinstance(value, str) else str(value)


def defaults(*functions: Callable[..., Any]) -> dict[str, str]:
    """The optional arguments of functions, as the tables write them."""
    parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
    return {p.name: shown(p.default) for p in parameters if p.default is not p.empty}


def test_tables_of_the_environment():
    from envs.adaptation.jobs import AdaptationSettings
    from envs.building import build_text_world, make_text_env
    from envs.masking_env import MaskingEnv

    every, of_text = tables("docs/environment.md", "argument")
    named = {name: cells[0] for name, cells in every.items()}
    assert named == defaults(MaskingEnv) | {"higher_is_better": '{"nll": False}'}
    named = {name: cells[0] for name, cells in of_text.items()}
    assert named == defaults(make_text_env, build_text_world)
    (settings,) = tables("docs/environment.md", "setting")
    assert {name: cells[0] for name, cells in settings.items()} == defaults(AdaptationSettings)


def test_tables_of_the_agent():
    (rows,) = tables("docs/agents.md", "setting")
    for number, settings in enumerate((AgentSettings(), AgentSettings.PAPER)):
        values = {name: shown(value).strip('"') for name, value in asdict(settings).items()}
        assert {name: cells[number] for name, cells in rows.items()} == values


def test_every_registered_environment_is_described():
    import gymnasium

    import envs  # noqa: F401

    (rows,) = tables("docs/environment.md", "id")
    assert set(rows) == {name for name in gymnasium.registry if name.startswith("nmg/")}
