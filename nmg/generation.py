"""Experiments of generation: pre-training objectives compared over the same seeds.

One row of the table is one *arm*: how the model is pre-trained on the texts of the training pairs
(not at all, on fragments, on scattered tokens) and how it is then fine-tuned on few of the pairs
(as usual, or with adversarially masked sources).
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from envs.adaptation.jobs import AdaptationSettings
from nmg.options import ConfigError

if TYPE_CHECKING:
    from envs.adaptation.generation_scorer import Objective
    from envs.models.seq2seq import Seq2SeqModel
    from envs.tasks.generation import PairFeature
    from envs.text.corpus import Context, Corpus

ObjectiveName = Literal["none", "mass", "scattered", "amt"]
NONE = "none"
UNIFORM = "uniform"


@dataclass(frozen=True)
class GenerationData:
    """Which pairs, which model."""

    dataset: str = "multi30k"
    """A named data set of generation (nmg data list), a file or a folder."""
    data_dir: str | None = None
    """Folder of the named data sets; without it the variable NMG_DATA."""
    model: str = ""
    """A hub id or a folder of a sequence-to-sequence model; ``nmg new-lm`` makes one."""
    languages: tuple[str, ...] = ()
    """Source and target language, by the tokenizer's codes, for models that want them."""
    metric: Literal["bleu", "rouge"] | None = None
    """What the table is about; none for ROUGE on scitldr and BLEU elsewhere."""
    side: Literal["both", "source", "target"] = "both"
    """Texts of the training pairs to pre-train on, without regard to what translates what."""
    max_source_length: int = 128
    """Longest source in tokens; longer ones are cut."""
    max_target_length: int = 128
    """Longest target in tokens, read or written."""
    prefix: str = ""
    """Written before every source (``summarize: `` for T5)."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of matrix products; weights stay fp32."""

    def __post_init__(self) -> None:
        if len(self.languages) not in (0, 2):
            raise ConfigError("languages are a source and a target, e.g. en_XX de_DE.")


@dataclass(frozen=True)
class GenerationComparison:
    """What is compared and how often."""

    objective: tuple[ObjectiveName, ...] = ("mass",)
    """mass, scattered (pre-training), amt (adversarially masked fine-tuning); none is always
    run, all others are compared with it."""
    k: tuple[float, ...] = (0.5,)
    """Shares of a sentence that are masked in pre-training; 0 is one token, 1 all of it."""
    scattered_k: tuple[float, ...] = ()
    """The shares of scattered tokens; none for those of k, as far as they are not the same thing
    for both."""
    placement: tuple[str, ...] = (UNIFORM,)
    """Where MASS puts its fragment: uniform, or where a strategy (idf, ...) would mask most."""
    pairs: tuple[int, ...] = (1000,)
    """Pairs fine-tuned on, a different sample for each seed; 0 for all. Each number gives a table
    of its own."""
    contexts: int = 0
    """Texts pre-trained on; 0 for all."""
    split: Literal["test", "dev"] = "test"
    """Pairs scored; dev to choose settings by."""
    test_examples: int = 0
    """Pairs scored, the same for every seed; 0 for all of the split."""
    seeds: int = 3
    """Seeds; every arm runs with the same ones."""
    first_seed: int = 0
    """The first of them."""
    beams: int = 1
    """Beams of the search; 1 is greedy."""
    smoothing: float = 0.1
    """Label smoothing of fine-tuning."""
    ratio: float = 0.2
    """Share of the source's tokens that amt masks."""
    mask_embedding: Literal["zero", "learned"] = "zero"
    """What stands for a token that amt masks."""
    fused: str | None = None
    """A masked language model whose states amt feeds to encoder and decoder; none for none."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}; it must be at least 1.")
        counts = [("contexts", self.contexts), ("test_examples", self.test_examples)]
        for name, count in [*counts, *(("pairs", count) for count in self.pairs)]:
            if count < 0:
                raise ConfigError(f"{name} is {count}; it must be at least 0.")
        for share in (*self.k, *self.scattered_k):
            if not 0 <= share <= 1:
                raise ConfigError(f"k is {share}; it must be between 0 (one token) and 1 (all).")


@dataclass(frozen=True)
class GenerationAdaptation(AdaptationSettings):
    """How an arm becomes a score; the defaults suit small models from scratch."""

    pretrain_epochs: int = 10
    """Visits of every text in pre-training, each with a new fragment."""
    pretrain_batch: int = 64
    """Texts of a step of pre-training."""
    pretrain_lr: float = 1e-3
    """Highest learning rate of pre-training."""
    finetune_epochs: int = 30
    """Visits of every pair in fine-tuning."""
    finetune_batch: int = 32
    """Pairs of a step of fine-tuning."""
    finetune_lr: float = 1e-3
    """Highest learning rate of fine-tuning."""
    finetune_steps: int = 0
    """About as many steps of fine-tuning whatever the number of pairs, in whole visits of them,
    in place of finetune_epochs; 0 for those."""


@dataclass(frozen=True)
class GenerationConfig:
    """Everything ``nmg generation`` can be told."""

    data: GenerationData = field(default_factory=GenerationData)
    comparison: GenerationComparison = field(default_factory=GenerationComparison)
    adaptation: GenerationAdaptation = field(default_factory=GenerationAdaptation)


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        objective: how it is trained.
        k: share of a sentence that is masked; ``None`` without pre-training.
        placement: where fragments lie.
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
        where = "" if self.placement == UNIFORM else f" at {self.placement}"
        return f"{self.objective} k={share}{where}"


def arms(comparison: GenerationComparison) -> list[Arm]:
    """Every arm, the reference first."""
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
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Material:
    """What all arms work with.

    Attributes:
        corpus: texts to pre-train on.
        train: all training pairs.
        test: pairs to score on.
    """

    corpus: Corpus
    train: Sequence[PairFeature]
    test: Sequence[PairFeature]

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
        ValueError: if it has no test split, or a number asks for more than there is.
    """
    from envs.text.corpus import Corpus, build_corpus
    from envs.text.datasets import load_splits

    data, comparison = config.data, config.comparison
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        splits = load_splits(data.dataset, task="generation", data_dir=data.data_dir)
    test = (comparison.split == "test" and splits.test) or splits.dev
    if not test:
        raise ValueError(f"{splits.name} has no {comparison.split} split to score on.")
    if max(comparison.pairs) > len(splits.train):
        raise ValueError(
            f"pairs is {max(comparison.pairs)}, but {splits.name} has {len(splits.train)} "
            "training pairs; give fewer, or 0 for all."
        )
    texts: list[str] = []
    if data.side != "target":
        texts += [example.source for example in splits.train]
    if data.side != "source":
        texts += [target for example in splits.train for target in example.targets]
    texts = list(dict.fromkeys(texts))
    if comparison.contexts:
        order = np.random.default_rng(0).permutation(len(texts))
        texts = [texts[i] for i in order[: comparison.contexts]]
    room = model.max_length - model.tokenizer.num_special_tokens_to_add()
    corpus = build_corpus(texts, model.tokenizer, min(data.max_source_length, room))
    usable = [context for context in corpus if context.maskable.any()]
    chosen = test[: comparison.test_examples or None]
    return Material(
        Corpus(usable, model.tokenizer),
        task.features(splits.train, training=True),
        task.features(chosen, training=False),
    )


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
        masks = _masks(material.corpus, arm, settings.pretrain_epochs, seed)
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


def _masks(corpus: Corpus, arm: Arm, visits: int, seed: int) -> list[np.ndarray]:
    from envs.adaptation.mass import random_fragment, random_scattered

    assert arm.k is not None
    rng = np.random.default_rng([seed, 2, zlib.crc32(arm.name.encode())])
    if arm.objective == "mass" and arm.placement != UNIFORM:
        return _placed_fragments(corpus, arm.placement, arm.k, visits, rng)
    draw = random_fragment if arm.objective == "mass" else random_scattered
    return [draw(context.maskable, arm.k, rng) for _ in range(visits) for context in corpus]


def _placed_fragments(
    corpus: Corpus, placement: str, k: float, visits: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Fragments where a strategy would mask most; it draws anew at each visit, if it draws."""
    from agents.fragments import FragmentOf
    from agents.strategies import make_strategy
    from envs.adaptation.mass import fragment_length

    policy = FragmentOf(
        make_strategy(
            placement,
            tokenizer=corpus.tokenizer,
            contexts=corpus.contexts,
            seed=int(rng.integers(2**31)),
        ),
        share=0.5,
    )
    return [
        policy.predict(_observation(context, fragment_length(int(context.maskable.sum()), k)))[
            0
        ].astype(bool)
        for _ in range(visits)
        for context in corpus
    ]


def _observation(context: Context, budget: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": context.input_ids,
        "attention_mask": np.ones(len(context), np.int8),
        "word_ids": context.word_ids,
        "maskable": context.maskable.astype(np.int8),
        "context_id": np.zeros(1, np.int32),
        "budget": np.array([budget], np.int32),
    }


def adversarial_objective(
    config: GenerationConfig,
) -> Callable[[Seq2SeqModel], Objective]:
    """Makes the objective of ``amt``."""
    from agents.adversarial_translation import (
        AdversarialTranslation,
        AdversarialTranslationSettings,
    )
    from envs.adaptation.generation_scorer import Translation

    comparison = config.comparison
    settings = AdversarialTranslationSettings(
        ratio=comparison.ratio, embedding=comparison.mask_embedding
    )
    states, width = _fused_states(config) if comparison.fused else (None, 0)

    def objective(model: Seq2SeqModel) -> Objective:
        return AdversarialTranslation(
            Translation(model, comparison.smoothing),
            model.model,
            model.tokenizer.all_special_ids,
            settings,
            states=states,
            states_width=width,
        )

    return objective


def _fused_states(config: GenerationConfig) -> tuple[Callable[[Sequence[Any]], Any], int]:
    """States of a pre-trained encoder of the sources, computed once a source."""
    import torch

    from envs.models.loading import load_language_model

    assert config.comparison.fused is not None
    lm = load_language_model(
        config.comparison.fused, device=config.data.device, precision=config.data.precision
    )
    lm.model.eval()
    known: dict[str, torch.Tensor] = {}

    def states(pairs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [pair.example.source for pair in pairs]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            encoded = lm.tokenizer(new, truncation=True, max_length=lm.max_length, verbose=False)
            sequences = [np.asarray(ids) for ids in encoded["input_ids"]]
            with torch.no_grad():
                packed_TF = lm.hidden_states(sequences)
            parts = packed_TF.split([len(ids) for ids in sequences])
            known.update((text, part.clone()) for text, part in zip(new, parts, strict=True))
        found = [known[text] for text in texts]
        lengths = torch.tensor([len(each) for each in found], device=lm.device)
        real_BS = torch.arange(int(lengths.max()), device=lm.device) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), real_BS

    return states, lm.width


def output_folder(config: GenerationConfig, name: str | None) -> Path:
    """Where results go that no one has named a folder for."""
    import time

    data = config.data
    run = name or time.strftime("%Y%m%d-%H%M%S")
    return Path("output") / Path(data.dataset).stem / Path(data.model).name / f"{run}_generation"
