"""The world of real text: contexts and labelled examples of one training file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.tasks.task import Feature, Task
from envs.text.corpus import build_corpus
from envs.text.examples import (
    QuestionExample,
    TextExample,
    example_group,
    example_text,
    plain_words,
)
from envs.text.overlap import without_overlap
from envs.world import Deal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def example_stratum(example: Any) -> str:
    """What a sample should hold in proportion: the label, or the article."""
    if isinstance(example, TextExample):
        return example.label
    return example.title if isinstance(example, QuestionExample) else ""


class TextWorld:
    """Deals contexts of a training file, its examples, and a fixed held-out part to score on.

    The texts of the examples are the documents. A fixed share of them, the same in each stratum
    (label or article), is held out: their examples are the score set, and they are never masked.
    What belongs together (the turns of a dialogue, one sentence with other entities marked) is held
    out together.
    An episode samples contexts from the rest and fine-tunes on the examples of just these
    (Kang et al. 2020), unless there are documents of another origin or a fixed labelled subset.

    Args:
        task: makes features of the examples.
        examples: of the training file; nothing else may choose a policy.
        tokenizer: cuts the documents into contexts.
        documents: mask these instead of the texts of the examples (an unlabelled domain corpus),
            but for those that hold a held-out text or are part of one, by eight words or more or as
            a whole; fine-tuning examples then are any of those not held out.
        window: content tokens of a context.
        contexts_per_episode: B; fewer only if the corpus has fewer.
        examples_per_episode: fine-tuning examples of an episode at most; ``None`` for no limit.
        score_examples: examples of the score set at most, in proportion to the strata; ``None``
            for all that are held out, as in the paper.
        held_out: share of the texts to score on.
        labelled: fine-tune on a fixed, stratified subset of this size, in every episode the same.
        text: the text of an example.

    Attributes:
        corpus: the contexts; a context id is an index into it.
        examples: those not held out.
        score_examples: those held out, after the cap.

    Raises:
        ValueError: if there are fewer than two different texts, or a size is out of range.
        EmptyCorpusError: if no document has a token.
    """

    def __init__(
        self,
        task: Task,
        examples: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        *,
        documents: Iterable[str] | None = None,
        window: int = 510,
        contexts_per_episode: int = 200,
        examples_per_episode: int | None = 1000,
        score_examples: int | None = None,
        held_out: float = 0.1,
        labelled: int | None = None,
        text: Callable[[Any], str] = example_text,
    ) -> None:
        if isinstance(documents, str):
            raise ValueError(
                "documents is one string; give a list of texts, such as "
                "envs.text.readers.read_documents(FILE) gives."
            )
        _check_sizes(
            window=window,
            contexts_per_episode=contexts_per_episode,
            examples_per_episode=examples_per_episode,
            score_examples=score_examples,
            labelled=labelled,
        )
        self.task = task
        self.tokenizer = tokenizer
        self.max_length = window + tokenizer.num_special_tokens_to_add()
        self.vocab_size = len(tokenizer)
        self.examples_per_episode = examples_per_episode

        rng = np.random.default_rng(0)  # not the run's seed: all runs hold out the same texts
        texts = [text(example) for example in examples]
        groups = [example_group(example, text) for example in examples]
        strata = [example_stratum(example) for example in examples]
        held = held_out_groups(groups, strata, held_out, rng)
        inside = [i for i, name in enumerate(groups) if name in held]
        held_texts = {texts[i] for i in inside}
        held_words = {plain_words(text) for text in held_texts}
        if score_examples is not None:
            chosen = stratified_sample([strata[i] for i in inside], score_examples, rng)
            inside = [inside[c] for c in chosen]
        # Dialogues and abstracts share turns and sentences ("All rights reserved.") with others.
        outside = [
            i
            for i, name in enumerate(groups)
            if name not in held and plain_words(texts[i]) not in held_words
        ]
        self.score_examples = [examples[i] for i in inside]
        self.examples = [examples[i] for i in outside]

        self._fixed: np.ndarray | None = None
        """Examples (indices) that every episode may fine-tune on; ``None``: those of its texts."""
        if labelled is not None:
            sample = stratified_sample([strata[i] for i in outside], labelled, rng)
            self._fixed = np.array(sample)
            self.examples_per_episode = None
        elif documents is not None:
            self._fixed = np.arange(len(outside))

        self._of_text: dict[str, list[int]] = defaultdict(list)
        for number, i in enumerate(outside):
            self._of_text[texts[i]].append(number)
        own = list(self._of_text)
        self.documents = own if documents is None else without_overlap(documents, held_texts)
        self.corpus = build_corpus(self.documents, tokenizer, window)
        self.contexts_per_episode = min(contexts_per_episode, len(self.corpus))
        self._training_features = TrainingFeatures(task, self.examples)

    def deal(self, seed: np.random.SeedSequence) -> Deal:
        """Sample contexts, then fine-tuning examples; the score set is always the same."""
        rng = np.random.default_rng(seed)
        ids = rng.choice(len(self.corpus), self.contexts_per_episode, replace=False)
        contexts = [self.corpus[i] for i in ids]
        pool = self._fixed
        if pool is None:
            sampled = sorted({context.document for context in contexts})
            pool = np.concatenate([self._of_text[self.documents[d]] for d in sampled])
        limit = self.examples_per_episode
        if limit is not None and limit < len(pool):
            pool = np.sort(rng.choice(pool, limit, replace=False))
        return Deal(
            contexts=contexts,
            context_ids=ids.astype(np.int32),
            train=self._training_features(pool.tolist()),
            score=self._score_features,
        )

    @cached_property
    def _score_features(self) -> list[Feature]:
        return self.task.features(self.score_examples, training=False)


class TrainingFeatures:
    """Features of examples, each tokenized once, when first dealt.

    Args:
        task: makes them.
        examples: all that can be dealt.
    """

    def __init__(self, task: Task, examples: Sequence[Any]) -> None:
        self._task, self._examples = task, examples
        self._known: dict[int, list[Feature]] = {}

    def __call__(self, numbers: Sequence[int]) -> list[Feature]:
        """Of the examples of these numbers, in this order."""
        missing = [number for number in numbers if number not in self._known]
        if missing:
            place = {id(self._examples[number]): number for number in missing}
            self._known.update((number, []) for number in missing)
            examples = [self._examples[number] for number in missing]
            for feature in self._task.features(examples, training=True):
                self._known[place[id(feature.example)]].append(feature)
        return [feature for number in numbers for feature in self._known[number]]


def held_out_groups(
    groups: Sequence[str], strata: Sequence[str], share: float, rng: np.random.Generator
) -> set[str]:
    """A stratified share of the different groups, at least one, never all.

    Raises:
        ValueError: if there are fewer than two different groups, or the share is not between 0
            and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"held_out is {share}; it is a share, above 0 and below 1.")
    stratum_of = dict(zip(groups, strata, strict=True))
    unique = list(stratum_of)
    if len(unique) < 2:
        raise ValueError(
            f"The training examples have {len(unique)} different text(s); at least two are needed, "
            "one to mask and one to score on."
        )
    count = min(max(1, round(share * len(unique))), len(unique) - 1)
    return {unique[i] for i in stratified_sample(list(stratum_of.values()), count, rng)}


def stratified_sample(strata: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """Indices, in order, of ``count`` items (or all there are), in proportion to the strata.

    Every item has nearly the same chance; a stratum's share is off by less than one item.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    rank = np.empty(len(strata))
    for indices in members.values():
        # Evenly spaced ranks with a random start: taking the lowest takes the same share of each.
        order = rng.permutation(len(indices))
        rank[indices] = (order + rng.random()) / len(indices)
    return sorted(np.argsort(rank, kind="stable")[:count].tolist())


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1.")
