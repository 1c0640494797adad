"""What can be set in the programs: one frozen dataclass per part, documented field by field.

`nmg/options.py` makes the flags and the YAML from these classes. The defaults are a budget for a
laptop; the paper's values are presets (``configs/squad-bert.yaml`` and the files based on it).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agents.settings import AgentSettings
from envs.adaptation.jobs import AdaptationSettings
from nmg.limits import (
    at_least,
    for_labelled_text,
    is_share,
    seed_fits,
    two_columns,
    two_languages,
)
from nmg.options import ConfigError

TaskName = Literal["testbed", "qa", "classification", "generation"]
TESTBED_MODEL = "tiny"
"""What the testbed's own language model is called; it is no folder."""


@dataclass(frozen=True)
class DataConfig:
    """Which text, which task, which language model."""

    task: TaskName = "testbed"
    """``testbed`` (generated, the best mask is known), ``qa``, ``classification``, or
    ``generation`` (masks are fragments; nmg generation takes the place of nmg test)."""
    dataset: str = "testbed"
    """A named data set (``nmg data list``), a file or a folder."""
    data_dir: str | None = None
    """Folder of the named data sets; without it the variable NMG_DATA, else
    ./data."""
    model: str = TESTBED_MODEL
    """``bert``, ``distilbert``, ``minilm`` (offline), a hub id or a folder; the testbed has one of
    its own, ``tiny``."""
    corpus: str | None = None
    """A file of unlabelled text of the domain to mask instead of the labelled texts; documents that
    hold a scored text or are part of one, by eight words or more or as a whole, are left out."""
    reference: str | None = None
    """File of general text; the strategy `difference` masks what sets the domain apart from it."""
    labelled: int | None = None
    """Fine-tune on a fixed, stratified subset of this size, in every episode and for every seed the
    same; none for all, of which an episode takes --train-examples."""
    window: int = 254
    """Content tokens of a context; special tokens come on top."""
    max_length: int = 384
    """Longest input of the downstream task, special tokens included."""
    stride: int = 128
    """Question answering: tokens by which windows of a long context overlap."""
    pad_questions: bool = False
    """Question answering: pad every input to its longest length and let the softmax over positions
    run over the padding too, as the original did; several times slower."""
    side: Literal["source", "target"] = "source"
    """Generation: which texts of the training pairs are masked."""
    languages: tuple[str, ...] = ()
    """Generation: source and target language, by the tokenizer's codes, for models that want
    them."""
    columns: tuple[str, ...] = ()
    """Names of the text and label columns (generation: source and target) of a file that does not
    call them so; two of them."""
    strict: bool = False
    """Stop at a damaged example instead of counting and skipping it."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of matrix products (weights stay fp32): auto is bf16 on a GPU, fp32 on a CPU."""
    workers: int = 0
    """Worker processes for score jobs; 1 computes in this process, 0 takes one per core (on a GPU:
    computes in this process)."""

    def __post_init__(self) -> None:
        at_least(1, window=self.window, max_length=self.max_length, labelled=self.labelled)
        at_least(0, workers=self.workers)
        for_labelled_text(
            self.task, corpus=self.corpus, reference=self.reference, labelled=self.labelled
        )
        if self.task == "qa" and not 0 <= self.stride < self.max_length:
            raise ConfigError(
                f"stride is {self.stride}; it must be at least 0 and below max_length, which is "
                f"{self.max_length}: give a lower --stride, too."
            )
        two_languages(self.languages)
        two_columns(self.columns)


@dataclass(frozen=True)
class EpisodeConfig:
    """What one episode plays with and what it pays."""

    contexts: int = 40
    """Contexts dealt, masked and further pre-trained on per episode."""
    train_examples: int = 200
    """Examples fine-tuned on per episode, most of them."""
    score_examples: int = 200
    """Held-out training examples scored per episode, stratified; more cost time, fewer noise."""
    held_out: float = 0.1
    """Share of the training contexts kept for scoring."""
    budget: float = 0.05
    """Share of the tokens of a context that may be masked."""
    random_reference: bool = True
    """Score random masks in every episode, too; without them an episode is a third cheaper, the
    agent learns against its opponent alone, and the log has no gain over random."""
    env_reward: Literal["gain", "sign", "nll_gain"] = "nll_gain"
    """What the environment pays and the log shows; the agent learns from the scores themselves,
    see --metric and --reward."""
    continual: bool = False
    """Carry the agent's further pre-trained weights from episode to episode, as the paper does."""
    continual_reset_every: int | None = None
    """Episodes after which the carried weights go back to the model's own; none for never."""

    def __post_init__(self) -> None:
        at_least(
            1,
            contexts=self.contexts,
            train_examples=self.train_examples,
            score_examples=self.score_examples,
        )
        is_share(budget=self.budget)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it must lie between 0 and 1.")
        if self.continual_reset_every is not None:
            if not self.continual:
                raise ConfigError(
                    f"continual_reset_every is {self.continual_reset_every}, but continual is off: "
                    "every episode starts anew; say --continual, too, or leave it out."
                )
            at_least(1, continual_reset_every=self.continual_reset_every)


@dataclass(frozen=True)
class RunConfig:
    """How long, how seeded, and where to."""

    episodes: int = 100
    """Outer steps of meta-training."""
    seed: int = 0
    """Of everything: deals, masks, initialisation, training."""
    checkpoint_every: int = 10
    """Episodes between checkpoints."""
    validation_episodes: int = 3
    """Fixed deals of the training data, other than the episodes', on which checkpoints are compared
    and the one to use is chosen; 0 takes the last."""
    final_episodes: int = 0
    """Deals on which the policy is compared with --rivals at the end; 0 leaves it to nmg test."""
    rivals: tuple[str, ...] = ("none", "whole_word", "idf")
    """Strategies in that comparison, besides random and the null controls."""
    job_timeout: float | None = None
    """Seconds a score job may take on a worker process; none for no limit."""
    tensorboard: bool = True
    """Write TensorBoard events."""

    def __post_init__(self) -> None:
        at_least(1, episodes=self.episodes, checkpoint_every=self.checkpoint_every)
        at_least(0, validation_episodes=self.validation_episodes)
        at_least(0, final_episodes=self.final_episodes)
        seed_fits(seed=self.seed)
        if self.job_timeout is not None and not self.job_timeout > 0:
            raise ConfigError(f"job_timeout is {self.job_timeout}; it must be above 0.")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything ``nmg train`` can be told."""

    data: DataConfig = field(default_factory=DataConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.episode.random_reference and self.agent.self_play == "none":
            raise ConfigError(
                "random_reference is off and self_play is none, so that nothing is left to compare "
                "the agent with; give one of them."
            )


@dataclass(frozen=True)
class ComparisonConfig:
    """What ``nmg test`` adapts on and how often."""

    test_dataset: str | None = None
    """Data set whose test (else dev) split is scored; none for the same data set."""
    contexts: int = 0
    """Contexts of the training corpus further pre-trained on; 0 for all."""
    examples: int = 0
    """Training examples fine-tuned on; 0 for all."""
    test_examples: int = 0
    """Test examples scored, the same for every seed; 0 for all."""
    budget: float = 0.05
    """Share of the tokens of a context that is masked."""
    seeds: int = 5
    """Seeds; every masking runs with the same ones."""
    first_seed: int = 0
    """The first of them."""
    controls: bool = True
    """Run the null controls ``untrained`` and ``shuffled`` beside each learned policy."""
    random_draws: int = 1
    """Random maskings that ``random`` is the mean of. All rows are compared with it; each more
    costs a job a seed and lessens what they share by luck."""

    def __post_init__(self) -> None:
        at_least(1, seeds=self.seeds, random_draws=self.random_draws)
        seed_fits(first_seed=self.first_seed)
        at_least(
            0, contexts=self.contexts, examples=self.examples, test_examples=self.test_examples
        )
        is_share(budget=self.budget)

    @property
    def all_seeds(self) -> range:
        """Of the comparison, in order."""
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True)
class TestingConfig:
    """Everything ``nmg test`` can be told, besides the policies and strategies."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    data: DataConfig = field(default_factory=DataConfig)
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
