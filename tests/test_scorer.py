"""Score jobs are pure, and their training is the library's own, step by step."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from envs.adaptation.executor import SerialExecutor
from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.adaptation.scorer import Scorer
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.tasks.task import Feature
from envs.text.corpus import build_corpus
from envs.text.examples import TextExample
from tests.conftest import SENTENCES

SETTINGS = AdaptationSettings(
    pretrain_epochs=2,
    pretrain_batch=3,
    pretrain_lr=1e-3,
    finetune_epochs=3,
    finetune_batch=4,
    finetune_lr=5e-3,
    finetune_seeds=2,
)


class IsQuestion:
    """A toy task: does the text hold a question mark?"""

    name = "toy"
    headline = "accuracy"
    reads_first = False
    pad_to = None
    fingerprint = "toy"

    def head(self, width):
        return torch.nn.Linear(width, 2)

    def _first(self, hidden_TD, lengths):
        return hidden_TD[torch.from_numpy(np.cumsum([0, *lengths[:-1]]))]

    def loss(self, head, hidden_TD, lengths, features):
        target = torch.tensor([f.target[0] for f in features])
        return torch.nn.functional.cross_entropy(head(self._first(hidden_TD, lengths)), target)

    def predict(self, head, hidden_TD, lengths, features):
        return list(head(self._first(hidden_TD, lengths)).numpy())

    def evaluate(self, features, outputs):
        logits = torch.from_numpy(np.stack(outputs))
        target = torch.tensor([f.target[0] for f in features])
        return {
            "accuracy": 100 * (logits.argmax(1) == target).float().mean().item(),
            "nll": torch.nn.functional.cross_entropy(logits, target).item(),
        }


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture
def lm(tiny_masked_lm, tiny_tokenizer) -> LanguageModel:
    return LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)


@pytest.fixture
def job(tiny_tokenizer) -> ScoreJob:
    corpus = build_corpus(SENTENCES, tiny_tokenizer, 64)
    rng = np.random.default_rng(0)
    masks = [(rng.random(len(c)) < 0.2) & c.maskable for c in corpus]
    features = [
        Feature(c.input_ids, np.zeros(len(c), np.int8), (int("?" in text),), None)
        for c, text in zip(corpus, SENTENCES, strict=True)
    ]
    return ScoreJob(corpus.contexts, masks, features[:5], features[5:], SETTINGS, seed=3)


def test_the_same_job_gives_the_same_score_whatever_ran_before(lm, job) -> None:
    scorer = Scorer(lm, IsQuestion())
    first = scorer(job)
    scorer(replace(job, seed=4))
    scorer(replace(job, masks=None))
    assert scorer(job) == first
    assert len(first.per_seed) == 2
    assert first.metrics["nll"] == pytest.approx(np.mean([s["nll"] for s in first.per_seed]))


def test_masks_and_seed_change_the_score(lm, job) -> None:
    scorer = Scorer(lm, IsQuestion())
    other = [c.maskable & ~mask for c, mask in zip(job.contexts, job.masks, strict=True)]
    scores = [
        scorer(j).metrics["nll"]
        for j in (job, replace(job, seed=4), replace(job, masks=other), replace(job, masks=None))
    ]
    assert len(set(scores)) == 4


def test_a_job_is_the_same_with_the_attention_that_a_gpu_takes(
    tiny_masked_lm, tiny_tokenizer, job, request
) -> None:
    without_dropout(tiny_masked_lm)
    expected = Scorer(
        LanguageModel("tiny", copy.deepcopy(tiny_masked_lm), tiny_tokenizer), IsQuestion()
    )(job)
    request.getfixturevalue("as_on_a_gpu")
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    got = Scorer(lm, IsQuestion())(job)
    assert lm.packs
    assert got.metrics["nll"] == pytest.approx(expected.metrics["nll"], rel=1e-4)
    assert got.pretrain_loss == pytest.approx(expected.pretrain_loss, rel=1e-4)


def test_a_task_that_reads_the_first_tokens_gets_the_same_score_from_them_alone(
    tiny_masked_lm, tiny_tokenizer, job
) -> None:
    without_dropout(tiny_masked_lm)
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    assert lm.join is not None
    task = IsQuestion()
    task.reads_first = True
    scorers = Scorer(lm, IsQuestion()), Scorer(lm, task)
    expected, got = (scorer(job) for scorer in scorers)
    assert got.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert got.cost == expected.cost


def test_no_generator_of_the_user_is_touched(lm, job) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Scorer(lm, IsQuestion())(job)
    assert torch.equal(torch.rand(3), expected)


def test_keys_are_equal_just_for_equal_jobs(job) -> None:
    assert replace(job).key == job.key
    feature = job.score[0]
    twin = replace(feature, example=TextExample("another", "text", "label"))
    typed = replace(feature, token_type_ids=1 - feature.token_type_ids)
    moved = [np.roll(mask, 1) for mask in job.masks]
    for other in (
        replace(job, seed=9),
        replace(job, masks=moved),
        replace(job, masks=None),
        replace(job, train=job.train[1:]),
        replace(job, score=job.score[1:]),
        replace(job, score=[twin, *job.score[1:]]),
        replace(job, score=[typed, *job.score[1:]]),
        replace(job, weights="other"),
        replace(job, settings=replace(SETTINGS, pretrain_lr=2e-3)),
    ):
        assert other.key != job.key


def test_another_configuration_or_tokenizer_has_scores_of_its_own(lm, tmp_path) -> None:
    def fingerprint(name: str) -> str:
        return Scorer(load_language_model(str(tmp_path / name)), IsQuestion()).fingerprint

    for name in ("here", "there", "dropping", "other mask"):
        lm.save(tmp_path / name)
    described = tmp_path / "dropping" / "config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"hidden_dropout_prob": 0}))
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.add_special_tokens({"mask_token": "the"})
    tokenizer.save_pretrained(tmp_path / "other mask")
    mine = Scorer(lm, IsQuestion()).fingerprint
    assert fingerprint("here") == fingerprint("there") == mine
    assert len({mine, fingerprint("dropping"), fingerprint("other mask")}) == 3


def plain_twin(lm: LanguageModel) -> torch.nn.Module:
    """The library's own model with the same weights, without dropout."""
    config = copy.deepcopy(lm.model.config)
    plain = BertForMaskedLM._from_config(config, attn_implementation="eager")
    plain.load_state_dict(lm.model.state_dict())
    plain.tie_weights()
    return without_dropout(plain)


def masked_batch(lm: LanguageModel, job: ScoreJob, rows) -> dict[str, torch.Tensor]:
    """What the library's model takes: contexts padded, every chosen token the mask token."""
    chosen = [(job.contexts[i].input_ids, job.masks[i]) for i in rows]
    masked = [np.where(mask, lm.mask_token_id, ids) for ids, mask in chosen]
    labels = [torch.from_numpy(np.where(mask, ids, -100)).long() for ids, mask in chosen]
    return padded(masked) | {"labels": pad(labels, -100)}


def padded(sequences) -> dict[str, torch.Tensor]:
    return {
        "input_ids": pad([torch.from_numpy(each).long() for each in sequences], 0),
        "attention_mask": pad([torch.ones(len(each)) for each in sequences], 0),
    }


def pad(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def test_another_precision_has_scores_of_its_own(tiny_masked_lm, tiny_tokenizer) -> None:
    prints = [
        Scorer(
            LanguageModel("tiny", copy.deepcopy(tiny_masked_lm), tiny_tokenizer, precision=each),
            IsQuestion(),
        ).fingerprint
        for each in ("fp32", "bf16")
    ]
    assert prints[0] != prints[1]


def test_training_steps_are_those_of_a_plain_loop(lm, job) -> None:
    """One epoch of further pre-training against a loop over the library's own model and loss."""
    without_dropout(lm.model)
    settings = replace(
        SETTINGS, corruption="mask", pretrain_epochs=1, pretrain_batch=len(job.contexts)
    )
    plain = plain_twin(lm)

    once = replace(job, settings=settings, keep_weights=True)
    scorer = Scorer(lm, IsQuestion())
    score = scorer(once)

    optimizer = torch.optim.AdamW(plain.parameters(), lr=settings.pretrain_lr, weight_decay=0.0)
    plain.train()
    loss = plain(**masked_batch(lm, job, range(len(job.contexts)))).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.clip)
    optimizer.step()

    assert score.pretrain_loss[0] == pytest.approx(loss.item(), rel=1e-5)
    lm.restore(scorer.weights[once.key])
    ours = dict(lm.model.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-4, atol=2e-5, msg=name)


def test_a_job_is_a_plain_loop(lm, job) -> None:
    """Orders, rates, seeds and scores of every step, with the library's own model and optimiser."""
    without_dropout(lm.model)
    job = replace(job, settings=replace(SETTINGS, corruption="mask"))
    settings, plain, losses, expected = job.settings, plain_twin(lm), [], []

    def order(stage: int, number: int) -> np.random.Generator:
        rows, drawn = np.random.SeedSequence([job.seed, stage, number]).spawn(2)
        torch.manual_seed(int(drawn.generate_state(1)[0]))
        return np.random.default_rng(rows)

    def train(modules, rng, count, size, epochs, lr, loss_of) -> None:
        weights = [weight for module in modules for weight in module.parameters()]
        optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
        batches = []
        for _ in range(epochs):
            rows = rng.permutation(count)
            batches += [rows[i : i + size] for i in range(0, count, size)]
        for step, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / len(batches))
            optimizer.zero_grad()
            loss = loss_of(rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, settings.clip)
            optimizer.step()
            losses.append(loss.item())

    def logits(rows, features, head) -> torch.Tensor:
        states = plain.bert(**padded([features[i].input_ids for i in rows])).last_hidden_state
        return head(states[:, 0])

    def targets(rows, features) -> torch.Tensor:
        return torch.tensor([features[i].target[0] for i in rows])

    sizes = len(job.contexts), settings.pretrain_batch, settings.pretrain_epochs
    train(
        [plain],
        order(0, 0),
        *sizes,
        settings.pretrain_lr,
        lambda rows: plain(**masked_batch(lm, job, rows)).loss,
    )
    pretrain_loss = np.mean(np.reshape(losses, (settings.pretrain_epochs, -1)), axis=1)
    adapted = copy.deepcopy(plain.state_dict())
    for number in range(settings.finetune_seeds):
        plain.load_state_dict(adapted)
        rng, head = order(1, number), torch.nn.Linear(lm.width, 2)
        train(
            [plain, head],
            rng,
            len(job.train),
            settings.finetune_batch,
            settings.finetune_epochs,
            settings.finetune_lr,
            lambda rows: torch.nn.functional.cross_entropy(
                logits(rows, job.train, head),  # noqa: B023
                targets(rows, job.train),
            ),
        )
        every = range(len(job.score))
        found = logits(every, job.score, head).detach()
        nll = torch.nn.functional.cross_entropy(found, targets(every, job.score))
        expected.append(nll.item())

    score = Scorer(lm, IsQuestion())(job)
    assert score.pretrain_loss == pytest.approx(pretrain_loss, rel=1e-4)
    assert [seed["nll"] for seed in score.per_seed] == pytest.approx(expected, rel=1e-4)


class Fixed(IsQuestion):
    """Nothing of its head is drawn but the dropout."""

    def head(self, width):
        head = super().head(width)
        torch.nn.init.ones_(head.bias)
        torch.nn.init.eye_(head.weight)
        return torch.nn.Sequential(torch.nn.Dropout(0.5), head)


def test_nothing_is_dropped_while_it_is_scored(lm, job) -> None:
    settings = replace(SETTINGS, finetune_epochs=0)
    scores = []
    for seed in (3, 4):
        lm.model.train()
        untrained = replace(job, masks=None, seed=seed, settings=settings)
        scores.append(Scorer(lm, Fixed())(untrained).metrics)
    assert scores[0] == scores[1]


def test_corruption_is_drawn_by_seed_and_context(lm, job, monkeypatch) -> None:
    seen, masked_losses = [], lm.masked_losses

    def recorded(sequences, positions, labels):
        seen.append([ids.tolist() for ids in sequences])
        return masked_losses(sequences, positions, labels)

    monkeypatch.setattr(lm, "masked_losses", recorded)
    context, settings = job.contexts[0], replace(SETTINGS, pretrain_epochs=1)
    alike = replace(job, contexts=[context] * 3, masks=[context.maskable] * 3, settings=settings)
    for seed in (3, 4):
        Scorer(lm, IsQuestion())(replace(alike, seed=seed))
    drawn = {tuple(ids) for batch in seen for ids in batch}
    assert len(drawn) == 6


def test_every_epoch_trains_on_the_same_masks_and_corruption(lm, job, monkeypatch) -> None:
    seen, masked_losses = [], lm.masked_losses

    def recorded(sequences, positions, labels):
        seen.append((np.concatenate(sequences).tolist(), positions.tolist(), labels.tolist()))
        return masked_losses(sequences, positions, labels)

    monkeypatch.setattr(lm, "masked_losses", recorded)
    whole = replace(SETTINGS, pretrain_epochs=3, pretrain_batch=1, corruption="bert")
    Scorer(lm, IsQuestion())(replace(job, settings=whole))
    contexts = len(job.contexts)
    first, second, third = (sorted(seen[n * contexts :][:contexts]) for n in range(3))
    assert len(seen) == 3 * contexts
    assert first == second == third


def test_fine_tuning_leaves_the_rows_of_tokens_that_do_not_occur_and_no_other_trace(
    lm, job, monkeypatch
) -> None:
    """Against an optimiser that steps every weight."""
    before, scorer = lm.snapshot(), Scorer(lm, IsQuestion())
    job = replace(job, masks=None, settings=replace(SETTINGS, finetune_seeds=1))
    score, rows = scorer(job), lm.snapshot()
    monkeypatch.setattr(lm, "trained", lambda *args: contextlib.nullcontext(lm.flat))
    dense, all_weights = scorer(job), lm.snapshot()

    assert score.metrics["nll"] == pytest.approx(dense.metrics["nll"], rel=1e-5)
    torch.testing.assert_close(rows, all_weights, rtol=1e-4, atol=1e-5)
    lm.restore(rows)
    unread = np.setdiff1d(
        np.arange(lm.vocab_size), np.concatenate([f.input_ids for f in job.train])
    )
    after = lm.embeddings(unread)
    lm.restore(before)
    assert len(unread)
    assert torch.equal(after, lm.embeddings(unread))
    assert not torch.equal(rows, before)


def test_weight_decay_reaches_every_row(lm, job) -> None:
    before, scorer = lm.snapshot(), Scorer(lm, IsQuestion())
    settings = replace(SETTINGS, finetune_seeds=1, weight_decay=0.1)
    scorer(replace(job, masks=None, settings=settings))
    tokens = np.setdiff1d(np.arange(lm.vocab_size), [lm.tokenizer.pad_token_id])  # zeros
    after = lm.embeddings(tokens)
    lm.restore(before)
    assert (after != lm.embeddings(tokens)).any(dim=1).all()


def test_a_frozen_token_embedding_is_not_trained(job, tiny_masked_lm, tiny_tokenizer) -> None:
    tiny_masked_lm.get_input_embeddings().weight.requires_grad_(False)
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    before, tokens = lm.snapshot(), np.arange(lm.vocab_size)
    frozen = lm.embeddings(tokens)
    Scorer(lm, IsQuestion())(replace(job, masks=None))
    assert torch.equal(lm.embeddings(tokens), frozen)
    assert not torch.equal(lm.snapshot(), before)


def test_kept_weights_are_where_the_next_job_starts(lm, job) -> None:
    scorer = Scorer(lm, IsQuestion())
    kept = replace(job, keep_weights=True)
    scorer(kept)
    onward = replace(job, weights=kept.key, seed=5)
    assert scorer(onward) != scorer(replace(job, seed=5))
    with pytest.raises(KeyError, match="nowhere"):
        scorer(replace(job, weights="nowhere"))


def test_fine_tuning_learns_the_toy_task(lm, job) -> None:
    settings = replace(SETTINGS, finetune_epochs=40, finetune_lr=1e-2)
    longer = replace(job, settings=settings, score=job.train)
    assert Scorer(lm, IsQuestion())(longer).metrics["accuracy"] == 100.0


def test_the_executor_runs_each_job_once(job) -> None:
    calls = []
    executor = SerialExecutor(lambda j: calls.append(j.key) or len(calls))
    assert executor.submit(job).result() == 1
    assert executor.submit(replace(job)).result() == 1
    assert executor.submit(replace(job, seed=8)).result() == 2
    assert len(calls) == 2
    # A remembered score would lack the weights that the job is to leave behind.
    assert executor.submit(replace(job, keep_weights=True)).result() == 3
