"""Score jobs of generation are pure, learn, and tell fragments from scattered masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from envs.adaptation import scorer as scorer_module
from envs.adaptation.generation_objective import Translation
from envs.adaptation.generation_scorer import GenerationScorer, GenerationSettings, bucketed
from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.adaptation.mass import random_fragment, random_scattered
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import train_tokenizer
from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import Generation
from envs.text.corpus import build_corpus, special_marks
from envs.text.examples import GenerationExample
from nmg.generation_amt import AdversarialObjective
from nmg.generation_config import GenerationComparison, GenerationConfig
from tests.conftest import SENTENCES

pytest.importorskip("sacrebleu")

SETTINGS = AdaptationSettings(
    pretrain_epochs=2,
    pretrain_batch=4,
    pretrain_lr=1e-3,
    finetune_epochs=2,
    finetune_batch=4,
    finetune_lr=1e-3,
)
COPY = [GenerationExample(str(n), text, (text,)) for n, text in enumerate(SENTENCES)]


@pytest.fixture
def model(bpe_tokenizer) -> Seq2SeqModel:
    made = new_model("bart", "seq2seq", bpe_tokenizer, ModelSize(32, 1, 2, 64))
    return Seq2SeqModel("bart", made, bpe_tokenizer)


@pytest.fixture
def task(bpe_tokenizer) -> Generation:
    return Generation(bpe_tokenizer, max_source_length=64, max_target_length=40)


@pytest.fixture
def job(bpe_tokenizer, task) -> ScoreJob:
    corpus = build_corpus(SENTENCES, bpe_tokenizer, 60)
    rng = np.random.default_rng(0)
    masks = [random_fragment(context.maskable, 0.5, rng) for context in corpus]
    features = task.features(COPY, training=True)
    return ScoreJob(corpus.contexts, masks, features[:5], features[5:], SETTINGS, seed=3)


def test_the_same_job_gives_the_same_score_whatever_ran_before(model, task, job):
    scorer = GenerationScorer(model, task)
    first = scorer(job)
    scorer(replace(job, seed=4))
    scorer(replace(job, masks=None))
    assert scorer(job) == first
    assert set(first.metrics) == {"bleu", "nll", "perplexity"}
    assert first.metrics["perplexity"] == pytest.approx(np.exp(first.metrics["nll"]))
    assert len(first.pretrain_loss) == 2
    assert first.cost["steps"] == 2 * 2 + 2 * 2


def test_another_search_has_scores_of_its_own(model, task):
    mine = GenerationScorer(model, task).fingerprint
    assert GenerationScorer(model, task, settings=GenerationSettings()).fingerprint == mine
    pytest.importorskip("rouge_score")
    others = [
        GenerationScorer(model, task, settings=GenerationSettings(beams=4)),
        GenerationScorer(model, task, settings=GenerationSettings(smoothing=0.0)),
        GenerationScorer(model, Generation(model.tokenizer, "rouge", 64, 40)),
        GenerationScorer(model, Generation(model.tokenizer, "bleu", 64, 5)),
    ]
    assert len({mine, *(scorer.fingerprint for scorer in others)}) == 5
    assert len(mine) < 64  # a folder is called so
    model.model.generation_config.no_repeat_ngram_size = 3
    assert GenerationScorer(model, task).fingerprint != mine


def test_masks_seed_and_weights_change_the_score(model, task, job):
    scorer = GenerationScorer(model, task)
    rng = np.random.default_rng(0)
    scattered = [random_scattered(context.maskable, 0.5, rng) for context in job.contexts]
    jobs = [job, replace(job, masks=scattered), replace(job, masks=None), replace(job, seed=4)]
    assert len({each.key for each in jobs}) == 4
    assert len({scorer(each).metrics["nll"] for each in jobs}) == 4
    assert replace(job, score=job.score[:1]).key != job.key


def test_pre_training_is_not_done_twice_in_a_row(model, task, job):
    """Fewer pairs, same pre-training: same score as on a fresh scorer, without its steps."""
    phases: list[str] = []
    fresh = GenerationScorer(model, task)
    scorer = GenerationScorer(model, task, lambda phase, step, steps: phases.append(phase))
    scorer(job)
    fewer = replace(job, train=job.train[:2], settings=replace(SETTINGS, finetune_epochs=1))
    phases.clear()
    again = scorer(fewer)
    assert "pre-training" not in phases
    assert again == fresh(fewer)
    for other in (replace(job, seed=4), replace(job, settings=replace(SETTINGS, clip=0.5))):
        phases.clear()
        scorer(other)
        assert "pre-training" in phases


def test_nll_is_the_models_own(model, task, job):
    """Without any training: the loss that the library computes, token by token."""
    untouched = replace(job, masks=None, train=[], settings=replace(SETTINGS, eval_tokens=1))
    score = GenerationScorer(model, task)(untouched)
    total = tokens = 0.0
    model.model.eval()
    with torch.inference_mode():
        for feature in job.score:
            labels = torch.from_numpy(feature.target_ids.astype(np.int64))[None]
            source = torch.from_numpy(feature.source_ids.astype(np.int64))[None]
            loss = model.model(input_ids=source, labels=labels).loss
            total, tokens = total + loss.item() * labels.numel(), tokens + labels.numel()
    assert score.metrics["nll"] == pytest.approx(total / tokens, rel=1e-5)
    together = GenerationScorer(model, task)(replace(untouched, settings=SETTINGS))
    assert together.metrics["nll"] == pytest.approx(score.metrics["nll"], rel=1e-5)


def test_unknown_words_are_hidden_from_the_decoder():
    """But for those in the fragment: they are words, not special tokens."""
    tokenizer = train_tokenizer(SENTENCES, "unigram", vocab_size=330, max_length=64)
    t5 = new_model("t5", "seq2seq", tokenizer, ModelSize(16, 1, 2, 64))
    scorer = GenerationScorer(Seq2SeqModel("t5", t5, tokenizer), Generation(tokenizer))
    context = build_corpus(["The Ж river Ж flows"], tokenizer, 30).contexts[0]
    places = np.flatnonzero(context.input_ids == tokenizer.unk_token_id)
    assert len(places) == 2
    mask = np.zeros(len(context), dtype=bool)
    mask[places[1] :] = context.maskable[places[1] :]
    job = ScoreJob([context], [mask], [], [], replace(SETTINGS, corruption="mask"), seed=0)
    (made,) = scorer._sequences(job, [0])
    shown = made.decoder_ids[2 : places[1] + 1]  # after the start and the begin of sequence
    assert (shown == tokenizer.mask_token_id).all()
    assert made.decoder_ids[places[1] + 1] == tokenizer.unk_token_id
    assert made.decoder_ids[1] == tokenizer.bos_token_id


def test_no_generator_of_the_user_is_touched(model, task, job):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    GenerationScorer(model, task)(job)
    assert torch.equal(torch.rand(3), expected)


def test_fine_tuning_learns_to_copy(model, task, job):
    settings = replace(SETTINGS, finetune_epochs=80, finetune_lr=1e-2)
    steps = []
    scorer = GenerationScorer(
        model,
        task,
        lambda phase, step, steps_: steps.append((phase, step, steps_)),
        settings=GenerationSettings(beams=2, smoothing=0.0),
    )
    score = scorer(replace(job, masks=None, score=job.train, settings=settings))
    assert score.metrics["bleu"] > 90
    assert ("fine-tuning", 160, 160) in steps
    assert steps[-1][0] == "generation"


def smoothed(model, inputs, features, smoothing):
    """The loss by its formula: a share of the probability is that of all words alike."""
    losses = []
    for row, feature in enumerate(features):
        given = torch.from_numpy(model.shifted(feature.target_ids))[None]
        own = {"attention_mask": inputs["attention_mask"][row : row + 1]}
        if "input_ids" in inputs:
            own["input_ids"] = inputs["input_ids"][row : row + 1]
        else:
            states = inputs["encoder_outputs"].last_hidden_state[row : row + 1]
            own["encoder_outputs"] = BaseModelOutput(states)
        logits_MV = model.model(**own, decoder_input_ids=given, use_cache=False).logits[0]
        logs_MV = logits_MV.log_softmax(-1)
        right_M = logs_MV[range(len(feature.target_ids)), feature.target_ids]
        losses.append(-(1 - smoothing) * right_M - smoothing * logs_MV.mean(-1))
    return torch.cat(losses).mean()


def test_fine_tuning_minimises_the_smoothed_loss(model, task, job):
    model.model.eval()
    scorer = GenerationScorer(model, task, settings=GenerationSettings(smoothing=0.3))
    objective = scorer._objective()
    inputs = objective.inputs(job.train)
    expected = smoothed(model, inputs, job.train, 0.3)
    torch.testing.assert_close(objective.loss(job.train), expected, rtol=1e-4, atol=1e-5)


def test_the_adversarys_translations_are_smoothed_as_well(model, job):
    """In what the decoder sees of the masked source."""
    comparison = GenerationComparison(
        objective=("amt",), smoothing=0.3, ratio=0.5, mask_embedding="learned"
    )
    torch.manual_seed(0)
    objective = AdversarialObjective(GenerationConfig(comparison=comparison))(model)
    model.model.eval()
    objective.eval().loss(job.train)
    _, mask = objective.last_mask
    for row, feature in enumerate(job.train):
        marks = special_marks(model.tokenizer)
        assert mask[row].sum() == round(0.5 * int((~np.isin(feature.source_ids, marks)).sum()))
    assert objective.mask_embedding is not None
    sources = Translation.inputs(objective._others[0], job.train)
    inputs, _ = objective._encode(sources, job.train, mask)
    expected = smoothed(model, inputs, job.train, 0.3).item()
    assert objective.last_terms["translation"] == pytest.approx(expected, rel=1e-4)


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_to_zero(model, task, job, monkeypatch):
    rates = []
    library = scorer_module.descend

    def descend(weights, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"] / SETTINGS.finetune_lr)
        library(weights, optimizer, *rest)

    monkeypatch.setattr(scorer_module, "descend", descend)
    settings = replace(SETTINGS, finetune_epochs=10)
    GenerationScorer(model, task)(replace(job, masks=None, settings=settings))
    expected = [0.01, 0.51, *np.linspace(1, 0, 19)[:-1]]
    np.testing.assert_allclose(rates, expected, atol=1e-9)


def test_what_is_written_is_as_long_as_the_task_says_and_searched_as_asked(
    model, task, job, monkeypatch
):
    task = Generation(model.tokenizer, max_source_length=64, max_target_length=5)
    asked, written, library = [], [], model.generate

    def generate(inputs, **options):
        asked.append(options)
        written.extend(library(inputs, **options))
        return written[-len(inputs["input_ids"]) :]

    monkeypatch.setattr(model, "generate", generate)
    settings = GenerationSettings(beams=3)
    GenerationScorer(model, task, settings=settings)(replace(job, masks=None, train=[]))
    assert asked == [{"max_new_tokens": 5, "beams": 3}] * len(asked)
    assert max(map(len, written)) == 1 + 5  # the decoder's start is not counted


def test_pre_training_lowers_its_loss(model, task, job):
    settings = replace(SETTINGS, pretrain_epochs=20, pretrain_lr=3e-3)
    losses = GenerationScorer(model, task)(replace(job, settings=settings)).pretrain_loss
    assert losses[-1] < losses[0] - 0.5


def test_an_objective_of_ones_own(model, task, job):
    """Its loss is minimised, its weights are trained with the model's and start anew."""

    class Shifted(Translation):
        def __init__(self, model):
            super().__init__(model)
            self.offset = torch.nn.Parameter(torch.zeros(()))
            made.append(self)

        def loss(self, features):
            return super().loss(features) + (self.offset - 1) ** 2

    made: list[Shifted] = []
    scorer = GenerationScorer(model, task, objective=Shifted)
    first = scorer(job)
    assert made[0].offset.item() > 0
    assert scorer(job) == first
    assert len(made) == 2


def test_buckets_hold_every_row_once_an_epoch():
    lengths = np.random.default_rng(0).integers(3, 40, size=103)
    batches = bucketed(lengths, 8, 2, np.random.default_rng(1))
    assert len(batches) == 2 * 13
    assert sorted(np.concatenate(batches[:13]).tolist()) == list(range(103))
    padding = sum(lengths[b].max() * len(b) for b in batches[:13]) / lengths.sum()
    assert padding < 1.1
    again = bucketed(lengths, 8, 2, np.random.default_rng(1))
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(("name", "value"), [("beams", 0), ("smoothing", 1.0)])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        GenerationSettings(**{name: value})
