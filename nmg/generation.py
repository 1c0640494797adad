"""Experiments of generation: pre-training objectives compared over the same seeds.

One row of the table is one *arm*: how the model is pre-trained on the texts of the training pairs
(not at all, on fragments, on scattered tokens) and how it is then fine-tuned on few of the pairs
(as usual, or with adversarially masked sources).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nmg.generation_config import (
    UNIFORM,
    GenerationAdaptation,
    GenerationComparison,
    GenerationConfig,
    ObjectiveName,
)
from nmg.limits import two_columns
from nmg.maskings import policy_name
from nmg.options import ConfigError

if TYPE_CHECKING:
    from agents.fragments import FragmentOf
    from envs.models.seq2seq import Seq2SeqModel
    from envs.tasks.generation import PairFeature
    from envs.text.corpus import Corpus

AT_ONCE = 256
"""Texts that a placement is asked about together."""


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        objective: how it is trained.
        k: share of a sentence that is masked; ``None`` without pre-training.
        placement: where fragments lie: ``uniform``, a strategy, or the run folder of a learned
            policy.
    """

    objective: ObjectiveName
    k: float | None = None
    placement: str = UNIFORM

    @property
    def kind(self) -> str:
        """How pairs are fine-tuned on: ``plain`` or ``amt``."""
        return "amt" if self.objective == "amt" else "plain"

    @property
    def name(self) -> str:
        """As the table calls it."""
        if self.k is None:
            return self.objective
        share = {0.0: "one token", 1.0: "all"}.get(self.k, f"{self.k:g}")
        place = self.placement
        if is_learned(place):
            place = policy_name(Path(place), ())
        where = "" if place == UNIFORM else f" at {place}"
        return f"{self.objective} k={share}{where}"


def is_learned(placement: str) -> bool:
    """Whether a placement is a folder, of a learned policy, and not a word."""
    return placement != UNIFORM and ("/" in placement or Path(placement).is_dir())


def arms(comparison: GenerationComparison) -> list[Arm]:
    """Every arm, the reference first.

    Raises:
        ConfigError: if the table would call two of them the same.
    """
    found = [Arm("none")]
    for objective in comparison.objective:
        if objective == "mass":
            places = comparison.placement
            found += [Arm(objective, share, place) for place in places for share in comparison.k]
        elif objective == "scattered":
            # One token, and all of them, are the same scattered or not.
            same = {0.0, 1.0} if "mass" in comparison.objective else set()
            shares = comparison.scattered_k or [k for k in comparison.k if k not in same]
            found += [Arm(objective, share) for share in shares]
        elif objective == "amt":
            found.append(Arm(objective))
    found = list(dict.fromkeys(found))
    names = [arm.name for arm in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two arms are called {twice!r}; give one of them, or rename a run.")
    return found


@dataclass(frozen=True, eq=False)
class Material:
    """What all arms work with.

    Attributes:
        corpus: texts to pre-train on.
        train: all training pairs.
        test: pairs to score on.
        policies: learned ones by their placement; each names tokens, and the fragment that holds
            most of them is masked, as in meta-training.
    """

    corpus: Corpus
    train: Sequence[PairFeature]
    test: Sequence[PairFeature]
    policies: Mapping[str, FragmentOf] = field(default_factory=dict)

    @property
    def about(self) -> str:
        tokens = sum(map(len, self.corpus))
        return (
            f"{len(self.corpus):,} texts to pre-train on ({tokens:,} tokens), "
            f"{len(self.train):,} training pairs, {len(self.test):,} test pairs"
        )


def gather(config: GenerationConfig, model: Seq2SeqModel, task: Any) -> Material:
    """Read the data set.

    Raises:
        ValueError: if it has no test split, a number asks for more than there is, or a learned
            policy was made for another vocabulary.
        FileNotFoundError: if there is no policy in the folder of a placement.
    """
    from envs.text.corpus import Corpus, build_corpus
    from envs.text.datasets import load_splits

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
    if max(comparison.pairs) > len(splits.train):
        raise ValueError(
            f"pairs is {max(comparison.pairs)}, but {splits.name} has {len(splits.train)} "
            "training pairs; give fewer, or 0 for all."
        )
    examples = splits.train
    sources = [] if data.side == "target" else [each.source for each in examples]
    targets = [] if data.side == "source" else [text for each in examples for text in each.targets]
    texts = list(dict.fromkeys(sources + targets))
    if comparison.contexts:
        order = np.random.default_rng(0).permutation(len(texts))
        texts = [texts[i] for i in order[: comparison.contexts]]
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
    chosen = test[: comparison.test_examples or None]
    return Material(
        corpus,
        task.features(splits.train, training=True),
        task.features(chosen, training=False),
        policies,
    )


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
    config: GenerationConfig, material: Material, arm: Arm, seed: int
) -> Iterator[tuple[int, Any]]:
    """The score jobs of an arm by number of pairs; they share their pre-training.

    Of arms with one seed, everything but the masking is the same.
    """
    from envs.adaptation.jobs import ScoreJob

    settings, contexts, masks = config.adaptation, [], None
    if arm.k is not None:
        contexts = list(material.corpus) * settings.pretrain_epochs
        masks = _masks(material, arm, settings.pretrain_epochs, seed)
    for count in config.comparison.pairs:
        yield (
            count,
            ScoreJob(
                contexts=contexts,
                masks=masks,
                train=_sample(material.train, count, seed),
                score=material.test,  # type: ignore[arg-type]  # pairs have all a job asks of them
                # Every visit has a mask of its own: the visits are contexts of a single epoch.
                settings=replace(
                    settings,
                    pretrain_epochs=1,
                    finetune_epochs=_visits(settings, count or len(material.train)),
                    finetune_steps=0,
                ),
                seed=seed,
            ),
        )


def _visits(settings: GenerationAdaptation, pairs: int) -> int:
    """How often every pair is fine-tuned on."""
    if not settings.finetune_steps:
        return settings.finetune_epochs
    return max(1, round(settings.finetune_steps * settings.finetune_batch / pairs))


def _sample(pairs: Sequence[Any], count: int, seed: int) -> Sequence[Any]:
    """Pairs drawn by the seed; a larger sample holds the smaller ones."""
    if not count:
        return pairs
    order = np.random.default_rng([seed, 1]).permutation(len(pairs))
    return [pairs[i] for i in np.sort(order[:count])]


def _masks(material: Material, arm: Arm, visits: int, seed: int) -> list[np.ndarray]:
    from envs.adaptation.mass import random_fragment, random_scattered

    assert arm.k is not None
    corpus = material.corpus
    rng = np.random.default_rng([seed, 2, zlib.crc32(arm.name.encode())])
    if arm.objective == "mass" and arm.placement != UNIFORM:
        drawn = int(rng.integers(2**31))
        policy = material.policies.get(arm.placement) or _strategy(corpus, arm.placement)
        policy.seed(drawn)
        return _placed_fragments(corpus, policy, arm.k, visits)
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
    corpus: Corpus, policy: FragmentOf, k: float, visits: int
) -> list[np.ndarray]:
    """Fragments where a policy would mask most; it draws anew at each visit, if it draws."""
    from envs import spaces
    from envs.adaptation.mass import fragment_length

    masks = []
    for start in [start for _ in range(visits) for start in range(0, len(corpus), AT_ONCE)]:
        contexts = corpus.contexts[start : start + AT_ONCE]
        observation = spaces.pad_contexts(
            contexts,
            np.arange(start, start + len(contexts)),
            length=max(map(len, contexts)),
            pad_id=int(corpus.tokenizer.pad_token_id or 0),
            budget=1.0,
        )
        lengths = [fragment_length(int(context.maskable.sum()), k) for context in contexts]
        observation["budget"] = np.array(lengths, np.int32)[:, None]
        masks_BL, _ = policy.predict(observation)
        pairs = zip(masks_BL, contexts, strict=True)
        masks += [mask_L[: len(context)].astype(bool) for mask_L, context in pairs]
    return masks
