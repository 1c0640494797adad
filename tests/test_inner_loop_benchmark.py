"""The benchmark of the inner loop: it runs, its sides compute the same, its sums are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from envs.models.native import products
from envs.models.new_tokenizer import train_tokenizer

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The program, with every side in this process and a small vocabulary."""
    pytest.importorskip("accelerate")
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(FOLDER))
    import inner_loop
    from inner_loop_parts import measure, sides

    for name in inner_loop.THREADS:
        monkeypatch.setenv(name, "1")

    class Here(sides.Side):
        def __init__(self, name, workload, device) -> None:
            self.desk = sides.Desk(name, workload, device)

        def send(self, what, value=None) -> None:
            self.got = self.desk.answer(what, value)

        def receive(self):
            return self.got

        def close(self) -> None:
            pass

    monkeypatch.setattr(measure, "Side", Here)
    monkeypatch.setattr(
        inner_loop,
        "load_tokenizer",
        lambda texts: train_tokenizer(texts[:50], "wordpiece", vocab_size=500),
    )
    yield inner_loop
    for name in [name for name in sys.modules if name.startswith("inner_loop")]:
        del sys.modules[name]


def test_all_sides_run_the_same_job(benchmark, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.delenv("NMG_DATA", raising=False)
    from inner_loop_parts import episode, limit

    monkeypatch.setattr(products, "SMALLEST", (1, 1))  # a toy's products by the same code
    monkeypatch.setattr(limit, "SHAPES", ((64, 32, 128),))
    monkeypatch.setattr(episode, "UPDATES", 1)
    monkeypatch.setattr(episode, "BATCH", 4)
    arguments = "--sizes toy --contexts 9 --questions 9 --repeats 1 --steps 1 --extras shares"
    assert benchmark.main([*arguments.split(), "--output", str(tmp_path)]) == 0

    results = json.loads((tmp_path / "performance.json").read_text())
    assert [case["task"] for case in results["cases"]] == ["qa", "classification"]
    for case in results["cases"]:
        losses = {name: side["first_loss"] for name, side in case["sides"].items()}
        assert losses["common"] == pytest.approx(losses["plain"], rel=1e-5)
        assert losses["fp32"] == pytest.approx(losses["plain"], rel=1e-5)
        assert losses["bf16"] == pytest.approx(losses["plain"], rel=1e-2)
        for side in case["sides"].values():
            (stages,) = side["stages"]
            assert all(cpu > 0 for _, cpu in stages.values())
        assert all(operations > 0 for operations in case["needed"].values())
        assert set(case["agents"]) == {"plain", "fp32", "bf16"}
        for (stages,) in case["agents"].values():
            assert all(cpu > 0 for _, cpu in stages.values())
    for shares in results["extras"]["shares"].values():
        assert shares["matrix products"] > 0
        assert sum(shares.values()) == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "times faster than plain" in printed
    assert "processor seconds of one episode" in printed
    assert (tmp_path / "performance.png").stat().st_size > 1000
    page = (tmp_path / "performance.md").read_text()
    assert "### toy, classification" in page


def test_a_few_steps_are_scaled_to_the_whole_job(benchmark, tmp_path) -> None:
    from inner_loop_parts.clock import Step
    from inner_loop_parts.material import generated_questions
    from inner_loop_parts.measure import scaled
    from inner_loop_parts.workload import EVALUATION, FINETUNING, PRETRAINING, RELOAD, make_workload

    examples = generated_questions(2, 20)
    tokenizer = benchmark.load_tokenizer([example.context for example in examples])
    workload = make_workload("qa", examples, tokenizer, tmp_path, contexts=16, questions=16, seed=0)
    steps = [Step(stage, wall, wall / 2, 10) for stage in workload.batches() for wall in (9.0, 1.0)]
    whole = scaled([*steps, Step(RELOAD, 0.5, 0.5, 0)], workload, "steps")
    assert whole[PRETRAINING] == (6.0, 3.0)  # 2 batches of 8, 3 epochs; the first step warmed up
    assert whole[FINETUNING] == (len(workload.batches()[FINETUNING]) * 1.0, pytest.approx(1.0))
    assert whole[RELOAD] == (0.5, 0.5)
    by_tokens = scaled(steps, workload, "tokens")
    total = sum(map(len, workload.job.score))
    assert by_tokens[EVALUATION][0] == pytest.approx(total / 10)


def test_the_limit_counts_what_is_read(benchmark, tmp_path) -> None:
    from inner_loop_parts.limit import needed
    from inner_loop_parts.material import generated_questions
    from inner_loop_parts.workload import EVALUATION, PRETRAINING, make_workload

    examples = generated_questions(2, 20)
    tokenizer = benchmark.load_tokenizer([example.context for example in examples])
    model = {"width": 6, "layers": 3, "inner": 10, "vocabulary": 50}
    workload = make_workload("qa", examples, tokenizer, tmp_path, contexts=5, questions=5, seed=0)
    counts = needed(workload, model)

    # Every product of the encoder, written out for one context of n tokens of which r are masked.
    def products(n: int, r: int) -> list[tuple[int, int, int]]:
        whole = [(n, 6, 6)] * 4 + [(n, 6, 10), (n, 10, 6), (n, 6, n), (n, n, 6)]
        last = [(n, 6, 6)] * 2 + [(r, 6, 6)] * 2 + [(r, 6, 10), (r, 10, 6), (r, 6, n), (r, n, 6)]
        return 2 * whole + last

    def operations(shapes: list[tuple[int, int, int]]) -> int:
        return sum(2 * a * b * c for a, b, c in shapes)

    job = workload.job
    forward = sum(
        operations([*products(len(c), m.sum()), (m.sum(), 6, 6), (m.sum(), 6, 50)])
        for c, m in zip(job.contexts, job.masks, strict=True)
    )
    assert counts[PRETRAINING] == pytest.approx(3 * job.settings.pretrain_epochs * forward)
    assert counts[EVALUATION] == pytest.approx(
        sum(operations(products(len(f), len(f))) for f in job.score)
    )
