"""Compiling the C code: once, whole or not at all, and never somebody else's."""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from envs.models.native import library

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache; the library is found anew in it."""
    monkeypatch.setenv("NMG_CACHE", str(tmp_path))
    monkeypatch.delenv("NMG_NATIVE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    return library._folder()


def load():
    return library._load()


@needs_compiler
def test_it_is_compiled_once_and_alone_in_its_folder(folder) -> None:
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(lambda _: load(), range(3)))
    (file,) = folder.iterdir()
    written = file.stat().st_mtime_ns
    assert load()
    assert file.stat().st_mtime_ns == written


def test_without_a_compiler_there_is_none_and_no_complaint(folder, monkeypatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load() is None


def test_a_compiler_that_fails_is_named_and_leaves_nothing(folder, monkeypatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.warns(UserWarning, match="C code is not used"):
        assert load() is None
    assert not list(folder.iterdir())


def test_a_compiler_that_cannot_be_read_is_named(folder, monkeypatch) -> None:
    monkeypatch.setenv("CC", 'gcc "')
    with pytest.warns(UserWarning, match="C code is not used.*CC"):
        assert load() is None


@needs_compiler
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_can_write_is_not_loaded(folder, which) -> None:
    assert load()
    (file,) = folder.iterdir()
    (file if which == "file" else folder).chmod(0o777)
    with pytest.warns(UserWarning, match="others can write"):
        assert load() is None


def test_it_can_be_switched_off(monkeypatch) -> None:
    monkeypatch.setenv("NMG_NATIVE", "0")
    assert library.library.__wrapped__() is None
