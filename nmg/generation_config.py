"""Settings of ``nmg generation``: data and model, what is compared, how an arm becomes a score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from envs.adaptation.jobs import AdaptationSettings
from nmg.limits import at_least, seed_fits, two_columns, two_languages
from nmg.options import ConfigError

ObjectiveName = Literal["none", "mass", "scattered", "amt"]
NONE = "none"
UNIFORM = "uniform"


@dataclass(frozen=True)
class GenerationData:
    """Which pairs, which model."""

    dataset: str = "multi30k"
    """A named data set of generation (nmg data list), a file or a folder."""
    data_dir: str | None = None
    """Folder of the named data sets; without it the variable NMG_DATA, else
    ./data."""
    model: str = ""
    """A hub id or a folder of a sequence-to-sequence model; ``nmg new-lm`` makes one."""
    columns: tuple[str, ...] = ()
    """Names of the source and the target column of a file that does not call them so."""
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
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of matrix products (weights stay fp32): auto is bf16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        two_languages(self.languages)
        two_columns(self.columns)
        at_least(
            1,
            max_source_length=self.max_source_length,
            max_target_length=self.max_target_length,
        )


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
    """Where MASS puts its fragment: uniform, or where a strategy (idf, ...) or a learned policy
    (its run folder, of nmg train --task generation) would mask most."""
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
        at_least(1, seeds=self.seeds, beams=self.beams)
        at_least(0, contexts=self.contexts, test_examples=self.test_examples)
        seed_fits(first_seed=self.first_seed)
        for name in ("k", "placement", "pairs"):
            if not getattr(self, name):
                raise ConfigError(f"{name} names nothing; give at least one, or leave it out.")
        if NONE in self.placement:
            raise ConfigError(
                "placement is none; a fragment lies somewhere: give uniform, a strategy or a run "
                "folder."
            )
        for count in self.pairs:
            at_least(0, pairs=count)
        if len(set(self.pairs)) < len(self.pairs):
            given = ", ".join(map(str, self.pairs))
            raise ConfigError(f"pairs is {given}; give each number once, it is a table of its own.")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing is {self.smoothing}; it must be 0 or more and below 1.")
        if not 0 < self.ratio < 1:
            raise ConfigError(f"ratio is {self.ratio}; it must be above 0 and below 1.")
        for share in (*self.k, *self.scattered_k):
            if not 0 <= share <= 1:
                raise ConfigError(f"k is {share}; it must be between 0 (one token) and 1 (all).")

    @property
    def all_seeds(self) -> range:
        """Of the comparison, in order."""
        return range(self.first_seed, self.first_seed + self.seeds)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, finetune_steps=self.finetune_steps)


@dataclass(frozen=True)
class GenerationConfig:
    """Everything ``nmg generation`` can be told."""

    data: GenerationData = field(default_factory=GenerationData)
    comparison: GenerationComparison = field(default_factory=GenerationComparison)
    adaptation: GenerationAdaptation = field(default_factory=GenerationAdaptation)
