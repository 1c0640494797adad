"""What the arms of a comparison in generation train on: texts, masks, pairs, as score jobs."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmg.generation_arms import Arm, arms, is_learned
from nmg.generation_config import UNIFORM, GenerationAdaptation, GenerationConfig
from nmg.limits import two_columns

if TYPE_CHECKING:
    from agents.fragments import FragmentOf
    from envs.models.seq2seq import Seq2SeqModel
    from envs.tasks.generation import PairFeature
    from envs.text.corpus import Corpus
    from envs.text.examples import GenerationExample

AT_ONCE = 256
"""Texts that a placement is asked about together."""


@dataclass(frozen=True, eq=False)
class GenerationSetup:
    """What all arms work with.

    Attributes:
        corpus: texts to pre-train on.
        train: training pairs, without those that hold a scored one or are part of one, by eight
            words or more or as a whole.
        test: pairs to score on.
        policies: learned ones by their placement; each names tokens, and the fragment that holds
            most of them is masked, as in meta-training.
        left_out: training pairs that were.
    """

    corpus: Corpus
    train: Sequence[PairFeature]
    test: Sequence[PairFeature]
    policies: Mapping[str, FragmentOf] = field(default_factory=dict)
    left_out: int = 0

    @property
    def about(self) -> str:
        tokens = sum(map(len, self.corpus))
        text = (
            f"{len(self.corpus):,} texts to pre-train on ({tokens:,} tokens), "
            f"{len(self.train):,} training pairs, {len(self.test):,} test pairs"
        )
        if self.left_out:
            text += f"; {self.left_out:,} training pairs, which hold what is scored, were left out"
        return text


def gather(config: GenerationConfig, model: Seq2SeqModel, task: Any) -> GenerationSetup:
    """Read the data set.

    Raises:
        ValueError: if it has no test split, a number asks for more than there is, or a learned
            policy was made for another vocabulary.
        FileNotFoundError: if there is no policy in the folder of a placement.
    """
    from envs.text.corpus import Corpus, build_corpus
    from envs.text.datasets import load_splits
    from envs.text.overlap import without_overlap

    data, comparison = config.data, config.comparison
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = load_splits(
            data.dataset,
            task="generation",
            data_dir=data.data_dir,
            columns=two_columns(data.columns),
            parts=("train", comparison.split),
        )
    test = getattr(splits, comparison.split)
    if not test:
        raise ValueError(f"{splits.name} has no {comparison.split} split to score on.")
    chosen = test[: comparison.test_examples or None]
    examples = _not_scored(splits.train, chosen)
    if not examples:
        raise ValueError(
            f"Every training pair of {splits.name} holds a pair that is scored, or is part of one; "
            "give others to train on or to score on."
        )
    if max(comparison.pairs) > len(examples):
        raise ValueError(
            f"pairs is {max(comparison.pairs)}, but {splits.name} has {len(examples)} "
            "training pairs; give fewer, or 0 for all."
        )
    sources = [] if data.side == "target" else [each.source for each in examples]
    targets = [] if data.side == "source" else [text for each in examples for text in each.targets]
    scored = (text for each in chosen for text in (each.source, *each.targets))
    texts = list(dict.fromkeys(sources + targets))
    if comparison.contexts:
        texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    texts = without_overlap(texts, scored)[: comparison.contexts or None]
    corpus = build_corpus(
        texts,
        model.tokenizer,
        model.window(data.max_source_length),
        targets=set(targets).difference(sources),  # what is in both stays a source
    )
    usable = [context for context in corpus if context.maskable.any()]
    corpus, policies = Corpus(usable, model.tokenizer, texts), learned_policies(config)
    for name in {arm.placement for arm in arms(comparison)} - {UNIFORM, *policies}:
        _strategy(corpus, name)  # a wrong name is told before anything is written
    return GenerationSetup(
        corpus,
        task.features(examples, training=True),
        task.features(chosen, training=False),
        policies,
        len(splits.train) - len(examples),
    )


def _not_scored(
    train: Sequence[GenerationExample], scored: Sequence[GenerationExample]
) -> list[GenerationExample]:
    """Training pairs that neither hold a scored one nor are part of one, as turns of a dialogue
    are."""
    from envs.text.overlap import overlapping

    found = overlapping(map(_whole, train), map(_whole, scored))
    return [pair for pair, overlaps in zip(train, found, strict=True) if not overlaps]


def _whole(pair: GenerationExample) -> str:
    return " ".join((pair.source, *pair.targets))


def learned_policies(config: GenerationConfig) -> dict[str, FragmentOf]:
    """The learned policies among the placements; none is loaded that no arm would use."""
    from agents.fragments import FragmentOf
    from envs.models.states import TokenStates
    from nmg.assembly import generation_model
    from nmg.checkpoint import chosen_checkpoint
    from nmg.maskings import load_policy

    places = [arm.placement for arm in arms(config.comparison)]
    used = list(dict.fromkeys(place for place in places if is_learned(place)))
    if not used:
        return {}
    # A policy reads the states of the model as it was: the scorer's changes with every job.
    states = TokenStates(generation_model(config.data))
    vocab_size = len(states.language_model.tokenizer)
    return {
        placement: FragmentOf(load_policy(chosen_checkpoint(Path(placement)), states, vocab_size))
        for placement in used
    }


def arm_jobs(
    config: GenerationConfig, setup: GenerationSetup, arm: Arm, seed: int
) -> Iterator[tuple[int, Any]]:
    """The score jobs of an arm by number of pairs; they share their pre-training.

    Of arms with one seed, everything but the masking is the same.
    """
    from envs.adaptation.jobs import ScoreJob

    settings, contexts, masks = config.adaptation, [], None
    if arm.k is not None:
        contexts = list(setup.corpus) * settings.pretrain_epochs
        masks = _masks(setup, arm, settings.pretrain_epochs, seed)
    for count in config.comparison.pairs:
        yield (
            count,
            ScoreJob(
                contexts=contexts,
                masks=masks,
                train=_sample(setup.train, count, seed),
                score=setup.test,  # type: ignore[arg-type]  # pairs have all a job asks of them
                # Every visit has a mask of its own: the visits are contexts of a single epoch.
                settings=replace(
                    settings,
                    pretrain_epochs=1,
                    finetune_epochs=_visits(settings, count or len(setup.train)),
                    finetune_steps=0,
                ),
                seed=seed,
            ),
        )


def _visits(settings: GenerationAdaptation, pairs: int) -> int:
    """How often every pair is fine-tuned on."""
    if not settings.finetune_steps:
        return settings.finetune_epochs
    return max(1, round(settings.finetune_steps / math.ceil(pairs / settings.finetune_batch)))


def _sample(pairs: Sequence[Any], count: int, seed: int) -> Sequence[Any]:
    """Pairs drawn by the seed; a larger sample holds the smaller ones."""
    if not count:
        return pairs
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    return [pairs[i] for i in np.sort(order[:count])]


def _masks(setup: GenerationSetup, arm: Arm, visits: int, seed: int) -> list[np.ndarray]:
    from envs.adaptation.mass import random_fragment, random_scattered

    assert arm.k is not None
    corpus = setup.corpus
    rng = np.random.default_rng([seed, 2, zlib.crc32(arm.name.encode())])
    if arm.objective == "mass" and arm.placement != UNIFORM:
        policy = setup.policies.get(arm.placement) or _strategy(corpus, arm.placement)
        return _placed_fragments(corpus, policy, arm.k, visits, rng)
    draw = random_fragment if arm.objective == "mass" else random_scattered
    return [draw(context.maskable, arm.k, rng) for _ in range(visits) for context in corpus]


def _strategy(corpus: Corpus, name: str) -> FragmentOf:
    from agents.fragments import FragmentOf
    from agents.strategies import make_strategy

    made = make_strategy(
        name, tokenizer=corpus.tokenizer, contexts=corpus.contexts, texts=corpus.texts or None
    )
    return FragmentOf(made, share=0.5)


def _placed_fragments(
    corpus: Corpus, policy: FragmentOf, k: float, visits: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Fragments where a policy would mask most; it draws anew at each visit, if it draws."""
    from envs import spaces
    from envs.adaptation.mass import fragment_length
    from envs.references import reseed

    reseed(policy, rng)
    masks = []
    for start in [start for _ in range(visits) for start in range(0, len(corpus), AT_ONCE)]:
        contexts = corpus.contexts[start : start + AT_ONCE]
        ids = np.arange(start, start + len(contexts))
        observation = spaces.pad_contexts(contexts, ids, corpus.tokenizer, budget=1.0)
        lengths = [fragment_length(int(context.maskable.sum()), k) for context in contexts]
        observation["budget"] = np.array(lengths, np.int32)[:, None]
        chosen_BL, _ = policy.predict(observation)
        masks += spaces.cut(spaces.allowed_masks(chosen_BL, observation, rng), contexts)
    return masks
