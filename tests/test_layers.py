"""The house rule: nmg imports envs and agents; those two import neither each other nor nmg."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"envs": {"agents", "nmg"}, "agents": {"envs", "nmg"}}


def imported_modules(file: Path) -> set[str]:
    """Everything a file imports from, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers_look_down_only(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    guilty = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := {name.split(".")[0] for name in imported_modules(file)} & FORBIDDEN[package])
    }
    assert not guilty


@pytest.mark.parametrize("package", ["envs", "agents", "nmg"])
def test_nothing_comes_from_inside_the_library_s_model_files(package):
    files = list((ROOT / package).rglob("*.py"))
    modules = {name for file in files for name in imported_modules(file)}
    assert "transformers" in {name.split(".")[0] for name in modules}
    assert not [name for name in modules if name.startswith("transformers.models.")]
