"""Maskings on the same deals, and what a command says about its cost before it starts."""

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from stub_world import StubWorld, stub_score

from agents.strategies import NoMask
from envs.adaptation.jobs import AdaptationSettings
from envs.adaptation.scorer import Scorer
from envs.models.language_model import LanguageModel
from envs.references import UniformRandom
from envs.tasks.classification import Classification
from envs.text.corpus import build_corpus
from envs.text.examples import TextExample
from envs.world import Deal
from nmg import assembly, progress
from nmg.comparison import tabulate
from nmg.evaluation import INFORMATIVE, evaluate, masking_job, seed_of
from nmg.forecast import duration, forecast
from nmg.probe import job_tokens, probe
from nmg.progress import ProgressBar


class Here:
    def submit(self, job):
        future = Future()
        future.set_result(stub_score(job))
        return future


class EvenTokens:
    """The best mask of the stub world."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        best = observation["maskable"].astype(bool) & (observation["input_ids"] % 2 == 0)
        return best & (best.cumsum(axis=1) <= observation["budget"]), state


@pytest.fixture
def world(tiny_tokenizer):
    return StubWorld(tiny_tokenizer, contexts=12)


def scored(world, run=0, count=6):
    maskings = {"random": UniformRandom(), "best mask": EvenTokens(), "none": None}
    deals = [world.deal(seed_of(run, "deal", n)) for n in range(count)]
    settings = AdaptationSettings()
    return evaluate(world, deals, maskings, Here(), budget=0.2, settings=settings, run=run)


def test_the_planted_best_mask_is_found_better_than_random(world):
    scores = scored(world)
    assert [pair[INFORMATIVE] for pair in scores["best mask"]] == [1.0] * 6
    assert np.isnan(scores["none"][0][INFORMATIVE])
    table = tabulate(scores, headline="accuracy", higher_is_better=True)
    verdicts = {row.name: row.versus.verdict for row in table.rows if row.versus}
    assert verdicts["best mask"] == "better"


def test_the_same_run_gives_the_same_scores(world):
    assert str(scored(world)) == str(scored(world))
    assert str(scored(world)) != str(scored(world, run=1))


def test_maskings_share_the_seed_of_the_job_and_not_their_draws(world):
    deal = world.deal(seed_of(0, "deal", 0))
    jobs = [
        masking_job(
            world,
            deal,
            UniformRandom(),
            name=name,
            budget=0.2,
            settings=AdaptationSettings(),
            run=0,
            number=number,
        )
        for name, number in (("a", 0), ("b", 0), ("a", 0), ("a", 1))
    ]
    assert jobs[0].seed == jobs[1].seed
    assert jobs[0].key == jobs[2].key != jobs[1].key
    # Pairs are independent, even on the same deal.
    assert jobs[3].seed != jobs[0].seed
    assert len({np.concatenate(job.masks).tobytes() for job in jobs}) == 3
    assert all(mask.sum() == max(1, int(0.2 * len(mask))) for mask in jobs[0].masks)


def test_a_forecast_counts_the_tokens_that_the_score_then_reports(
    tiny_masked_lm, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr(assembly, "core_count", lambda: 2)
    task = Classification(tiny_tokenizer, ("bad", "good"), 32)
    examples = [
        TextExample(str(n), f"the river flows to the sea {n}", ("bad", "good")[n % 2])
        for n in range(20)
    ]
    corpus = build_corpus([example.text for example in examples], tiny_tokenizer, 24)
    deal = Deal(
        list(corpus),
        np.arange(len(corpus), dtype=np.int32),
        task.features(examples, training=True),
        task.features(examples, training=False),
    )
    world = StubWorld(tiny_tokenizer)
    settings = AdaptationSettings(pretrain_epochs=2, finetune_epochs=2, finetune_seeds=2)
    scorer = Scorer(LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer), task)
    for masking in (UniformRandom(), None, NoMask()):
        job = masking_job(
            world, deal, masking, name="x", budget=0.2, settings=settings, run=0, number=0
        )
        cost = scorer(job).cost
        keys = ("pretrain_tokens", "finetune_tokens", "eval_tokens")
        assert list(job_tokens(job).values()) == [cost[key] for key in keys]
        if masking is not None and not isinstance(masking, NoMask):
            rates = probe(scorer, job, seconds=0.1)
            said = str(forecast({"x": (10, job)}, rates))
            assert "10 score jobs" in said
            one, shared = (forecast({"x": (10, job)}, rates, workers) for workers in (1, 2))
            assert shared.seconds == pytest.approx(one.seconds / 2)
            assert shared.each == pytest.approx(one.each) == pytest.approx(one.seconds / 10)
            assert all(rate > 0 for rate in rates.values())
            # As in a corpus whose first contexts have nothing to mask; no time to run a job whole.
            late = [mask & (n == len(job.masks) - 1) for n, mask in enumerate(job.masks)]
            late = replace(job, masks=late)
            rates = probe(scorer, late, seconds=0.0)
            assert forecast({"x": (10, late)}, rates).seconds > 0
            assert rates["further pre-training"] > 0


def test_durations_read_well():
    assert [duration(s) for s in (7, 300, 7300)] == ["7 s", "5 min", "2 h 2 min"]


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = ProgressBar(10, "episode", jobs=3)
    for _ in range(5):
        for _ in range(3):
            bar("fine-tuning", 3, 7)
            bar.job_done()
        bar.unit_done()
        clock[0] += 20
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith("episode ")
    assert "left" in printed[0]


@pytest.mark.parametrize("terminal", [False, True])
def test_remembered_scores_do_not_shorten_what_is_left(terminal, capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
    bar = ProgressBar(10, "score job")
    for _ in range(6):
        bar.job_done(remembered=True)
    for _ in range(2):
        clock[0] += 600
        bar.job_done()
    printed = capsys.readouterr().err
    assert "8/10" in printed
    assert ("20:00<20:00" if terminal else "20 min left") in printed
