"""A strategy that learns online in a comparison: rehearsed, its masks those of the job."""

import json

import numpy as np
import pytest

from envs.adaptation.jobs import AdaptationSettings
from envs.further_pretraining import PretrainingSettings
from envs.testbed import build_testbed
from nmg import online
from nmg.cli import main
from nmg.evaluation import INFORMATIVE, evaluate, masking_job, seed_of
from nmg.online import OnlineMasking, online_adversary


@pytest.fixture(scope="module")
def bed():
    return build_testbed("small")


class Turning:
    """Masks the last maskable tokens, and the first ones once it was told of so many steps; writes
    down what it is told."""

    def __init__(self, steps):
        self.told, self.steps = [], steps

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        maskable = observation["maskable"].astype(bool)
        if len(self.told) < self.steps:
            rank = maskable[:, ::-1].cumsum(axis=1)[:, ::-1]
        else:
            rank = maskable.cumsum(axis=1)
        return (maskable & (rank <= observation["budget"])).astype(np.int8), None

    def feedback(self, observation, mask, token_losses):
        self.told.append(float(token_losses[mask.astype(bool)].mean()))


def test_the_job_has_the_masks_of_the_last_visit(bed):
    made = []
    deal = bed.world.deal(seed_of(0, "x", 0))
    steps = -(-len(deal.contexts) // 8)
    masking = OnlineMasking(
        bed.language_model, lambda seed: made.append(Turning(steps)) or made[-1]
    )
    settings = AdaptationSettings(pretrain_epochs=2, pretrain_batch=8)
    before = bed.language_model.snapshot()
    job = masking_job(
        bed.world, deal, masking, name="x", budget=0.3, settings=settings, run=0, number=0
    )
    assert (bed.language_model.snapshot() == before).all()
    assert len(job.masks) == len(job.contexts) == len(deal.contexts)
    assert job.settings == settings  # as many steps as any masking's job
    for context, mask in zip(job.contexts, job.masks, strict=True):
        masked = int(mask.sum())
        assert masked >= 1
        first = np.flatnonzero(context.maskable)[:masked]
        assert (np.flatnonzero(mask) == first).all()
    assert len(made[0].told) == 2 * steps


def test_the_rehearsal_is_the_pre_training_of_the_job(bed, monkeypatch):
    asked, seeds = [], []
    library = online.further_pretrain

    def spy(lm, corpus, policy, settings, **options):
        asked.append(settings)
        return library(lm, corpus, policy, settings, **options)

    monkeypatch.setattr(online, "further_pretrain", spy)
    settings = AdaptationSettings(
        pretrain_epochs=1, pretrain_batch=5, pretrain_lr=2e-3, corruption="mask", clip=0.5
    )
    masking = OnlineMasking(bed.language_model, lambda seed: seeds.append(seed) or Turning(1))
    contexts = bed.world.deal(seed_of(0, "x", 0)).contexts[:6]
    masks = masking.rehearse(contexts, settings, budget=0.3, seed=11)
    assert asked == [
        PretrainingSettings(
            epochs=1, batch=5, lr=2e-3, budget=0.3, corruption="mask", clip=0.5, seed=11
        )
    ]
    assert seeds == [11]
    assert [mask.shape for mask in masks] == [context.input_ids.shape for context in contexts]


def test_an_adversary_is_scored_like_any_masking(bed):
    deal = bed.world.deal(seed_of(0, "y", 0))
    maskings = {"adversarial": online_adversary(bed.language_model), "random": None}
    scores = [
        evaluate(
            bed.world,
            [deal],
            maskings,
            bed.executor,
            budget=bed.budget,
            settings=bed.settings,
            run=3,
        )
        for _ in range(2)
    ]
    assert scores[0]["adversarial"] == scores[1]["adversarial"]
    assert 0 <= scores[0]["adversarial"][0][INFORMATIVE] <= 1


def test_nmg_test_knows_the_adversary(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["test", "--task", "testbed", "--dataset", "small", "--strategy", "adversarial"]
    assert main([*command, "--seeds", "2", "--workers", "1", "--output", str(out)]) == 0
    capsys.readouterr()
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert "adversarial" in [row["masking"] for row in rows]


def test_generation_points_to_its_commands(capsys):
    for command, other in (("train", "nmg new-lm"), ("test", "nmg generation")):
        assert main([command, "--task", "generation", "--dataset", "multi30k"]) == 2
        assert other in capsys.readouterr().err
