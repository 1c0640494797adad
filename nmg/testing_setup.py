"""What meta-testing plays on: the full training corpus and the test split, one deal per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from envs.adaptation.scorer import Scorer
from envs.models.states import TokenStates
from envs.tasks.task import Feature, Task
from envs.text.corpus import Context, Corpus, build_corpus
from envs.text_world import TrainingFeatures, example_stratum, stratified_sample
from envs.world import Deal
from nmg.assembly import Setup, generated_setup, text_model
from nmg.config import TestingConfig
from nmg.corpora import corpus_documents, corpus_line
from nmg.evaluation import seed_of
from nmg.limits import two_columns

CORPUS_DEALS = 20
"""Deals of the testbed that corpus-based strategies count in."""


class TestWorld:
    """Deals contexts and training examples of a data set, and always the same test features.

    Args:
        task: makes features.
        corpus: contexts of the training texts.
        train: training examples.
        test: test examples.
        contexts: per deal; 0 for all of them, as many as there are if that is fewer.
        examples: per deal; likewise.
    """

    __test__ = False

    def __init__(
        self,
        task: Task,
        corpus: Corpus,
        train: Sequence[Any],
        test: Sequence[Any],
        *,
        contexts: int = 0,
        examples: int = 0,
    ) -> None:
        self.tokenizer = corpus.tokenizer
        self.vocab_size = len(corpus.tokenizer)
        self.max_length = max(map(len, corpus))
        self.corpus, self._task = corpus, task
        self.documents = corpus.texts
        self.contexts = min(contexts or len(corpus), len(corpus))
        self.examples = min(examples or len(train), len(train))
        self._pool = len(train)
        self._training_features = TrainingFeatures(task, train)
        self._test = test

    @cached_property
    def _test_features(self) -> list[Feature]:
        return self._task.features(self._test, training=False)

    def deal(self, seed: np.random.SeedSequence) -> Deal:
        """Without a limit every deal is the same; with one, it is a sample of its own."""
        rng = np.random.default_rng(seed)
        ids = np.sort(rng.choice(len(self.corpus), self.contexts, replace=False))
        rows = np.sort(rng.choice(self._pool, self.examples, replace=False))
        return Deal(
            contexts=[self.corpus[int(i)] for i in ids],
            context_ids=ids.astype(np.int32),
            train=self._training_features(rows.tolist()),
            score=self._test_features,
        )


@dataclass(frozen=True, eq=False)
class TestSetup(Setup):
    """The setup that maskings are compared on.

    Attributes:
        contexts: what corpus-based strategies count in.
        best: the policy that knows the best mask (the testbed's), or ``None``.
    """

    contexts: Sequence[Context] = ()
    best: Any = None

    def deal(self, seed: int) -> Deal:
        """What a seed plays with."""
        return self.world.deal(seed_of(seed, "test deal", 0))

    def measuring_deal(self) -> Deal:
        """A deal on which the mask rates of a policy are measured."""
        return self.world.deal(seed_of(0, "measure", 0))


def build_test_setup(config: TestingConfig) -> TestSetup:
    """The world that meta-testing plays in.

    Raises:
        ValueError, FileNotFoundError: if the data or the model cannot be used; one sentence.
    """
    if config.data.task == "generation":
        raise ValueError(
            "nmg test has no task generation: compare a learned policy with uniform fragments by "
            "nmg generation --placement uniform RUN, where RUN is its run folder."
        )
    if config.data.task == "testbed":
        return _testbed_setup(config.data.dataset)
    return _text_setup(config)


def _testbed_setup(dataset: str) -> TestSetup:
    from envs.testbed import best_mask

    on = generated_setup(dataset, "test")
    world: Any = on.world
    deals = [world.deal(seed_of(0, "corpus", number)) for number in range(CORPUS_DEALS)]
    contexts = [context for deal in deals for context in deal.contexts]
    about = (
        "Testbed: every seed is a fresh generated domain, whose new keywords no training episode "
        "had; "
        "the best mask is known."
    )
    return TestSetup(
        world,
        on.task,
        on.scorer,
        on.states,
        about=about,
        contexts=contexts,
        best=best_mask(world),
    )


def _text_setup(config: TestingConfig) -> TestSetup:
    from envs.building import build_task
    from envs.text.datasets import load_splits
    from envs.text.examples import example_text
    from envs.text.overlap import without_overlap

    data, comparison = config.data, config.comparison
    documents = corpus_documents(data)  # before the model: a wrong file is told at once
    lm = text_model(data)
    splits = load_splits(
        data.dataset,
        task=data.task,
        data_dir=data.data_dir,
        strict=data.strict,
        columns=two_columns(data.columns),
        test=comparison.test_dataset,
    )
    if splits.test is None:
        raise ValueError(
            f"The data set {splits.name} has no test split; give one by --test-dataset."
        )
    task = build_task(
        splits, lm, max_length=data.max_length, stride=data.stride, pad=data.pad_questions
    )
    room = lm.max_length - lm.tokenizer.num_special_tokens_to_add()
    if documents is None:
        texts = list(dict.fromkeys(example_text(example) for example in splits.train))
    else:
        texts = without_overlap(documents, (example_text(example) for example in splits.test))
    corpus = build_corpus(texts, lm.tokenizer, min(data.window, room))
    test = _limited(splits.test, comparison.test_examples)
    world = TestWorld(
        task,
        corpus,
        _labelled(splits.train, data.labelled),
        test,
        contexts=comparison.contexts,
        examples=comparison.examples,
    )
    about = (
        f"{splits.name}: {world.contexts} of {len(corpus)} contexts"
        f"{f' of {data.corpus}' if documents else ''}, "
        f"{world.examples} of {len(splits.train)} training examples; "
        f"scored on {len(test)} test examples of {comparison.test_dataset or splits.name}."
    )
    if documents is not None:
        about += "\n" + corpus_line(data, len(documents), len(texts))
    return TestSetup(
        world,
        task,
        Scorer(lm, task),
        TokenStates(text_model(data)),
        about=about,
        reference=data.reference,
        contexts=list(corpus),
    )


def _labelled(examples: Sequence[Any], count: int | None) -> Sequence[Any]:
    """A stratified subset of the training examples, the same in every command; ``None`` for all."""
    if count is None:
        return examples
    strata = [example_stratum(example) for example in examples]
    return [examples[i] for i in stratified_sample(strata, count, np.random.default_rng(0))]


def _limited(examples: Sequence[Any], count: int) -> Sequence[Any]:
    """``count`` of the examples, the same ones in every command; 0 for all."""
    if not count or count >= len(examples):
        return examples
    rows = np.random.default_rng(0).choice(len(examples), count, replace=False)
    return [examples[int(i)] for i in np.sort(rows)]
