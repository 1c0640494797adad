"""What every side computes: the same score job on the same weights, in the same order.

The sizes are an outer step's of the original at a scale that a CPU can do: 40 contexts masked at
5%, three epochs of further pre-training, 200 examples to fine-tune on, 200 to score on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.adaptation.scorer import (
    FINETUNE,
    PRETRAIN,
    length_batches,
    seed_everything,
    shuffled_batches,
)
from envs.text.corpus import Context, build_corpus
from envs.text.corruption import corrupt
from envs.text.examples import QuestionExample, TextExample

PRETRAINING, FINETUNING, EVALUATION = "further pre-training", "fine-tuning", "evaluation"
RELOAD = "save and reload"
STAGES = (PRETRAINING, RELOAD, FINETUNING, EVALUATION)
WINDOW, BUDGET, CLASSES = 510, 0.05, 6
EVALUATION_BATCH = 8
EARLIER = 7
"""Earlier episodes: with this one, of 2,000 masked tokens, from which on the original learns."""


@dataclass(frozen=True)
class Workload:
    """A score job and what sides that are not ours need to know of it.

    Attributes:
        job: contexts, masks, features, settings, seed.
        task: ``qa`` or ``classification``.
        labels: of classification.
        folder: where the weights and the tokenizer are.
        padded: lengths to which the original pads: contexts, features.
        earlier: contexts of earlier episodes.
    """

    job: ScoreJob
    task: str
    labels: tuple[str, ...]
    folder: Path
    padded: tuple[int, int]
    earlier: Sequence[Context] = ()

    def cut(self, steps: int) -> Workload:
        """The first batches of each stage, one epoch."""
        job, settings = self.job, self.job.settings
        settings = replace(settings, pretrain_epochs=1, finetune_epochs=1)
        contexts, train = steps * settings.pretrain_batch, steps * settings.finetune_batch
        assert job.masks is not None
        small = ScoreJob(
            job.contexts[:contexts],
            job.masks[:contexts],
            job.train[:train],
            job.score[: steps * EVALUATION_BATCH],
            settings,
            job.seed,
        )
        return replace(self, job=small, earlier=())

    def batches(self) -> dict[str, list[np.ndarray]]:
        """Rows of every step of every stage, as the scorer orders them."""
        job, settings = self.job, self.job.settings
        pretrain = shuffled_batches(
            len(job.contexts),
            settings.pretrain_batch,
            settings.pretrain_epochs,
            seed_everything(job.seed, PRETRAIN, 0, "cpu"),
        )
        finetune = shuffled_batches(
            len(job.train),
            settings.finetune_batch,
            settings.finetune_epochs,
            seed_everything(job.seed, FINETUNE, 0, "cpu"),
        )
        score = np.arange(len(job.score))
        evaluation = [
            score[i : i + EVALUATION_BATCH] for i in range(0, len(score), EVALUATION_BATCH)
        ]
        return {
            PRETRAINING: list(pretrain),
            FINETUNING: list(finetune),
            EVALUATION: evaluation,
        }

    def packed_evaluation(self) -> list[np.ndarray]:
        """Rows of the scorer's own evaluation batches, which are larger."""
        lengths = [len(feature) for feature in self.job.score]
        found = length_batches(lengths, self.job.settings.eval_tokens)
        return [np.asarray(rows) for rows in found]

    def tokens(self, stage: str, rows: Sequence[int] | np.ndarray) -> int:
        """Real tokens of a step."""
        items: dict[str, Sequence[Any]] = {
            PRETRAINING: self.job.contexts,
            FINETUNING: self.job.train,
            EVALUATION: self.job.score,
        }
        return sum(len(items[stage][int(i)]) for i in rows)

    def corrupted(self, tokenizer: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Input ids and labels of every context, as the scorer draws them."""
        job = self.job
        assert job.masks is not None
        return [
            corrupt(
                context.input_ids,
                mask,
                mask_token_id=tokenizer.mask_token_id,
                vocab_size=len(tokenizer),
                special_ids=tokenizer.all_special_ids,
                rule=job.settings.corruption,
                rng=np.random.default_rng([job.seed, PRETRAIN, i]),
            )
            for i, (context, mask) in enumerate(zip(job.contexts, job.masks, strict=True))
        ]


def make_task(task: str, tokenizer: Any, labels: Sequence[str]) -> Any:
    """The downstream task, as ours."""
    from envs.tasks.classification import Classification
    from envs.tasks.question_answering import QuestionAnswering

    if task == "qa":
        return QuestionAnswering(tokenizer)
    return Classification(tokenizer, labels, max_length=256)


def make_workload(
    task: str,
    examples: Sequence[QuestionExample],
    tokenizer: Any,
    folder: Path,
    *,
    contexts: int,
    questions: int,
    seed: int,
) -> Workload:
    """Draw a job: paragraphs to mask, as many examples to score on as to fine-tune on.

    Args:
        examples: questions with their paragraphs; classification labels a paragraph by its article.
    """
    rng = np.random.default_rng(seed)
    paragraphs = sorted({example.context for example in examples})
    rng.shuffle(paragraphs)
    corpus = build_corpus(paragraphs[: (EARLIER + 1) * contexts + 20], tokenizer, WINDOW)
    whole = len(corpus) // contexts * contexts
    chosen, earlier = corpus.contexts[:contexts], corpus.contexts[contexts:whole]
    masks = [_random_mask(context.maskable, rng) for context in chosen]
    pool: Sequence[Any] = examples if task == "qa" else _labelled(examples)
    labels = tuple(sorted({example.label for example in pool})) if task != "qa" else ()
    made = make_task(task, tokenizer, labels)
    order = rng.permutation(len(pool))[: 2 * questions]
    features = made.features([pool[i] for i in order], training=True)
    train, score = features[:questions], features[questions : 2 * questions]
    settings = AdaptationSettings(finetune_epochs=1 if task == "qa" else 5)
    job = ScoreJob(chosen, masks, train, score, settings, seed)
    padded = WINDOW + 2, 384 if task == "qa" else 256
    return Workload(job, task, labels, folder, padded, earlier[: EARLIER * contexts])


def _random_mask(maskable: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    places = np.flatnonzero(maskable)
    mask = np.zeros(len(maskable), dtype=bool)
    mask[rng.choice(places, size=max(1, int(BUDGET * len(maskable))), replace=False)] = True
    return mask


def _labelled(examples: Sequence[QuestionExample]) -> list[TextExample]:
    """Paragraphs of the articles with most of them; the article is the class."""
    title_of = {example.context: example.title for example in examples}
    titles = list(title_of.values())
    largest = sorted(set(titles), key=lambda title: (-titles.count(title), title))[:CLASSES]
    return [
        TextExample(str(number), text, title)
        for number, (text, title) in enumerate(title_of.items())
        if title in largest
    ]
