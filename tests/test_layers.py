"""The house rule: nmg imports envs and agents; those two import neither each other nor nmg."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {"envs": {"agents", "nmg"}, "agents": {"envs", "nmg"}}


def imported_packages(file: Path) -> set[str]:
    """First names of everything a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_layers_look_down_only(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    guilty = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := imported_packages(file) & FORBIDDEN[package])
    }
    assert not guilty
