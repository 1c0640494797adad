"""Puts the parts together: from settings to a world, a scorer, workers and token states."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor

from agents.fragments import FragmentOf
from envs.adaptation.executor import SerialExecutor
from envs.adaptation.generation_scorer import GenerationScorer
from envs.adaptation.jobs import BASE, Progress
from envs.adaptation.scorer import Scorer
from envs.fragment_env import RandomFragment
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model, load_seq2seq
from envs.models.runtime import check_device, tune_runtime
from envs.models.seq2seq import Seq2SeqModel
from envs.models.states import TokenStates
from envs.references import Policy, UniformRandom
from envs.tasks.task import Task
from envs.world import World
from nmg.checkpoint import FolderWeights
from nmg.config import TESTBED_MODEL, DataConfig, EpisodeConfig, TrainingConfig
from nmg.corpora import corpus_documents, corpus_line
from nmg.executors import ProcessExecutor
from nmg.limits import two_columns
from nmg.options import ConfigError
from nmg.resolution import setting_name
from nmg.score_cache import CachedExecutor

if TYPE_CHECKING:
    from nmg.generation_config import GenerationData


@dataclass(frozen=True, eq=False)
class Setup:
    """What maskings are scored on.

    Attributes:
        world: deals contexts and examples.
        task: names the metrics.
        scorer: runs score jobs in this process.
        states: what policies see of the language model; its weights are its own, since the
            scorer's change under every job.
        fragments: whether masks are fragments, as in generation.
        about: a line on the data, for people; empty where there is nothing to say.
        reference: a file of general text, if one was given.
    """

    world: World
    task: Task
    scorer: Scorer
    states: TokenStates
    fragments: bool = False
    about: str = ""
    reference: str | None = None

    @property
    def random(self) -> Policy:
        """Random masking, as the environment's own reference."""
        return RandomFragment() if self.fragments else UniformRandom()

    @property
    def texts(self) -> Sequence[str]:
        """Those of the domain, where it is one of real text."""
        return getattr(self.world, "documents", ())

    def played(self, masking: Policy | None) -> Policy | None:
        """A masking as the environment plays it."""
        return FragmentOf(masking) if self.fragments and masking is not None else masking


def learned_metric(config: TrainingConfig, task: Task) -> tuple[str, bool]:
    """The metric that the agent learns from, and whether higher is better."""
    name = task.headline if config.agent.metric == "headline" else config.agent.metric
    return name, task.higher_is_better[name]


def text_model(data: DataConfig) -> LanguageModel:
    """The language model of the settings."""
    return load_language_model(data.model, device=data.device, precision=data.precision)


def generation_model(data: DataConfig | GenerationData) -> Seq2SeqModel:
    """The sequence-to-sequence model of the settings."""
    languages = (data.languages[0], data.languages[1]) if data.languages else None
    return load_seq2seq(
        data.model, device=data.device, precision=data.precision, languages=languages
    )


def training_setup(data: DataConfig, episode: EpisodeConfig) -> Setup:
    """The world that meta-training plays in.

    Raises:
        ValueError, FileNotFoundError: if the data or the model cannot be used; one sentence.
    """
    if data.task == "testbed":
        check_device(data.device)  # the agent's; the tiny model is always on the CPU
        if data.model != TESTBED_MODEL:
            raise ConfigError(
                f"model is {data.model!r}, but the testbed has one of its own; leave it out, or "
                "give a --task and a --dataset of real text."
            )
        return generated_setup(data.dataset)
    if data.task == "generation":
        return _generation_setup(data, episode)
    from envs.building import build_text_world

    documents = corpus_documents(data)  # before the model: a wrong file is told at once
    lm = text_model(data)
    world, task = build_text_world(
        data.task,
        data.dataset,
        lm,
        data_dir=data.data_dir,
        strict=data.strict,
        columns=two_columns(data.columns),
        window=data.window,
        max_length=data.max_length,
        stride=data.stride,
        pad=data.pad_questions,
        documents=documents,
        contexts_per_episode=episode.contexts,
        examples_per_episode=episode.train_examples,
        score_examples=episode.score_examples,
        held_out=episode.held_out,
        labelled=data.labelled,
    )
    about = corpus_line(data, len(documents), len(world.documents)) if documents else ""
    return Setup(
        world,
        task,
        Scorer(lm, task),
        TokenStates(text_model(data)),
        about=about,
        reference=data.reference,
    )


def _generation_setup(data: DataConfig, episode: EpisodeConfig) -> Setup:
    from envs.generation_building import build_generation_task, build_generation_world

    model = generation_model(data)
    task = build_generation_task(
        data.dataset, model, max_source_length=data.max_length, max_target_length=data.max_length
    )
    world = build_generation_world(
        data.dataset,
        model,
        task,
        data_dir=data.data_dir,
        strict=data.strict,
        columns=two_columns(data.columns),
        side=data.side,
        window=data.window,
        contexts_per_episode=episode.contexts,
        examples_per_episode=episode.train_examples,
        score_examples=episode.score_examples,
        held_out=episode.held_out,
    )
    states = TokenStates(generation_model(data))
    return Setup(world, cast(Any, task), GenerationScorer(model, task), states, fragments=True)


def generated_setup(dataset: str, family: Literal["train", "test"] = "train") -> Setup:
    """The generated world with the known best mask.

    Args:
        dataset: a setting of the testbed; ``testbed`` is the standard one.
        family: ``test`` gives domains of words that no training deal has.
    """
    from envs.testbed import build_testbed

    setting = setting_name(dataset)
    testbed = build_testbed(setting, family=family)
    world: Any = testbed.world
    twin = build_testbed(setting, family=family)
    scorer = Scorer(testbed.language_model, testbed.task)
    return Setup(world, testbed.task, scorer, TokenStates(twin.language_model))


@dataclass(frozen=True)
class ScorerFactory:
    """Makes the scorer of a worker process; picklable.

    Attributes:
        data: which language model, where.
        task: the task itself, or ``None`` on the testbed, which makes its own.
        weights: folder in which the workers share further pre-trained weights.
    """

    data: DataConfig
    task: Task | None
    weights: Path | None

    def __call__(self, progress: Progress, number: int) -> Scorer:
        tune_runtime(threads=1)
        data = replace(self.data, device=worker_device(self.data.device, number))
        scorer = _scorer(data, self.task)
        scorer.progress = progress
        return share_weights(scorer, self.weights)


def _scorer(data: DataConfig, task: Task | None) -> Scorer:
    if task is None:
        return generated_setup(data.dataset).scorer
    if data.task == "generation":
        return GenerationScorer(generation_model(data), cast(Any, task))
    return Scorer(text_model(data), task)


def worker_device(device: str, number: int) -> str:
    """Workers take the GPUs in turn, from the one that was asked for."""
    import torch

    if not device.startswith("cuda"):
        return device
    first = int(device.partition(":")[2] or 0)
    return f"cuda:{(first + number) % torch.cuda.device_count()}"


def share_weights(scorer: Scorer, folder: Path | None) -> Scorer:
    """Keep further pre-trained weights in a folder, for other workers and for ``--resume``."""
    if folder is not None:
        base: Tensor = scorer.weights[BASE]
        scorer.weights = FolderWeights(folder, base)
    return scorer


def worker_count(data: DataConfig) -> int:
    """Worker processes to use: as set, else one per core that this process may use."""
    if data.workers or data.device != "cpu":
        return max(1, data.workers)
    return core_count()


def thread_count() -> int:
    """Threads for a program that trains one model: as OMP_NUM_THREADS says, else one per core."""
    # OpenMP reads a list, of which the first is for the outermost loop, and overlooks what is none.
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(said) if said.isdecimal() and int(said) else core_count()


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_executor(
    on: Setup,
    data: DataConfig,
    *,
    cache: Path | None = None,
    weights: Path | None = None,
    timeout: float | None = None,
    bar: Any = None,
) -> Iterator[CachedExecutor]:
    """Run score jobs here, or on worker processes if there are to be more than one.

    Args:
        on: whose scorer.
        data: how many workers, and what they load.
        cache: folder of remembered scores, with one in it for each model and precision: another's
            scores must not be paired with these.
        weights: folder of further pre-trained weights (continual mode).
        timeout: seconds a job may take on a worker.
        bar: told of steps inside jobs (called) and of finished jobs (``job_done``).
    """
    workers = worker_count(data)
    cache = cache and cache / on.scorer.fingerprint
    if workers == 1:
        on.scorer.progress = bar or on.scorer.progress
        serial = SerialExecutor(share_weights(on.scorer, weights))
        executor = CachedExecutor(serial, cache, bar and bar.job_done)
        yield executor
        executor.check_written()
        return
    task = None if data.task == "testbed" else on.task
    factory = ScorerFactory(data, task, weights)
    with ProcessExecutor(factory, workers, timeout=timeout, progress=bar) as pool:
        executor = CachedExecutor(pool, cache, bar and bar.job_done)
        yield executor
    executor.check_written()
