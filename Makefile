# `make test` alone, on a fresh clone with nothing but Python, makes .venv and runs the tests.

.PHONY: test test-slow test-real lint type format bench clean

export OMP_NUM_THREADS ?= 1

python = $$(scripts/python.sh)

test:
	$(python) -m pytest

test-slow:
	$(python) -m pytest -m "slow and not real"

test-real:
	$(python) -m pytest -m real

lint:
	python=$(python) && $$python -m ruff check . && $$python -m ruff format --check .

type:
	$(python) -m mypy

format:
	python=$(python) && $$python -m ruff check --fix . && $$python -m ruff format .

bench:
	$(python) benchmarks/inner_loop.py

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
