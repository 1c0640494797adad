"""Worlds and environments from names; the entry points of the registered environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from envs.adaptation.executor import SerialExecutor
from envs.adaptation.jobs import AdaptationSettings
from envs.adaptation.scorer import Scorer
from envs.masking_env import MaskingEnv
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.runtime import Precision
from envs.tasks.classification import Classification
from envs.tasks.question_answering import QuestionAnswering
from envs.tasks.task import Task
from envs.text.datasets import Splits, load_splits
from envs.text_world import TextWorld

QA_WINDOW, CLASSIFICATION_WINDOW = 510, 254
"""Content tokens of a context in the paper."""


def build_task(
    splits: Splits,
    language_model: LanguageModel,
    *,
    max_length: int | None = None,
    stride: int = 128,
    pad: bool = False,
    pooling: Literal["first", "mean"] = "first",
) -> Task:
    """The task of a data set.

    Args:
        max_length: longest input, special tokens included; 384 for question answering and 256 for
            classification if not given, and never more than the model takes.
        stride: question answering: tokens that neighbouring windows share.
        pad: question answering: whether padding takes part in the softmax.
        pooling: classification: what the head sees.

    Raises:
        ValueError: if the data set is for a task there is no environment for.
    """
    tokenizer, longest = language_model.tokenizer, language_model.max_length
    if splits.task == "qa":
        return QuestionAnswering(tokenizer, min(max_length or 384, longest), stride, pad=pad)
    if splits.task == "classification":
        length = min(max_length or 256, longest)
        return Classification(tokenizer, splits.labels, length, pooling)
    raise ValueError(f"{splits.name} is for {splits.task}; expected qa or classification.")


def build_text_world(
    task: str,
    dataset: str | Path,
    language_model: LanguageModel,
    *,
    data_dir: str | Path | None = None,
    strict: bool = False,
    columns: tuple[str, str] | None = None,
    window: int | None = None,
    max_length: int | None = None,
    stride: int = 128,
    pad: bool = False,
    pooling: Literal["first", "mean"] = "first",
    documents: Iterable[str] | None = None,
    contexts_per_episode: int = 200,
    examples_per_episode: int | None = 1000,
    score_examples: int | None = None,
    held_out: float = 0.1,
    labelled: int | None = None,
) -> tuple[TextWorld, Task]:
    """The world of a data set's training split, and its task.

    Args:
        task: ``qa`` or ``classification``.
        dataset: a named data set, a file or a folder.
        language_model: gives the tokenizer and the longest input.
        window: content tokens of a context; the paper's 510 (qa) or 254 (classification) if not
            given, and never more than the model takes.

    The other arguments are those of ``load_splits``, ``build_task`` and ``TextWorld``.
    """
    splits = load_splits(
        dataset, task=task, data_dir=data_dir, strict=strict, columns=columns, parts=("train",)
    )
    tokenizer = language_model.tokenizer
    made = build_task(
        splits, language_model, max_length=max_length, stride=stride, pad=pad, pooling=pooling
    )
    paper = QA_WINDOW if task == "qa" else CLASSIFICATION_WINDOW
    world = TextWorld(
        made,
        splits.train,
        tokenizer,
        documents=documents,
        window=language_model.window(paper if window is None else window),
        contexts_per_episode=contexts_per_episode,
        examples_per_episode=examples_per_episode,
        score_examples=score_examples,
        held_out=held_out,
        labelled=labelled,
    )
    return world, made


def make_question_answering_env(dataset: str | Path, model: str, **options: Any) -> MaskingEnv:
    """Entry point of ``nmg/MaskQA-v0``; see ``make_text_env``."""
    return make_text_env("qa", dataset, model, **options)


def make_classification_env(
    dataset: str | Path, model: str, *, settings: AdaptationSettings | None = None, **options: Any
) -> MaskingEnv:
    """Entry point of ``nmg/MaskClassification-v0``; see ``make_text_env``."""
    if settings is None:
        # Few steps make nothing of a fresh head on a short text; five epochs are the paper's.
        settings = AdaptationSettings(finetune_epochs=5, finetune_lr=2e-5)
    return make_text_env("classification", dataset, model, settings=settings, **options)


def make_text_env(
    task: str,
    dataset: str | Path,
    model: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    **options: Any,
) -> MaskingEnv:
    """The masking environment of a data set, with its language model in this process.

    Args:
        task: ``qa`` or ``classification``.
        dataset: a named data set, a file or a folder.
        model: ``minilm``, ``bert``, ``distilbert``, a hub id or a folder.
        device: of the language model.
        precision: of its matrix products.
        **options: those of ``build_text_world`` and of ``MaskingEnv``. Without any, an episode has
            the paper's size, which wants an accelerator.
    """
    language_model = load_language_model(model, device=device, precision=precision)
    of_world = taken(options, build_text_world)
    world, made = build_text_world(task, dataset, language_model, **of_world)
    options = {"headline": made.headline, "higher_is_better": made.higher_is_better} | options
    return MaskingEnv(world, SerialExecutor(Scorer(language_model, made)), **options)


def taken(options: dict[str, Any], *functions: Callable[..., Any]) -> dict[str, Any]:
    """Take the options that some functions know out of the others."""
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return {name: options.pop(name) for name in list(options) if name in names}


def make_testbed_env(
    testbed: dict[str, Any] | None = None,
    *,
    settings: AdaptationSettings | None = None,
    **options: Any,
) -> MaskingEnv:
    """Entry point of ``nmg/MaskTestbed-v0``.

    Args:
        testbed: arguments of ``envs.testbed.build_testbed``.
        settings: how masks become a score; the testbed's if not given.
        **options: the others of ``MaskingEnv``; the budget is the testbed's if not given.
    """
    from envs.testbed import build_testbed

    bed = build_testbed(**(testbed or {}))
    own = {
        "settings": bed.settings if settings is None else settings,
        "budget": bed.budget,
        "higher_is_better": bed.task.higher_is_better,
    }
    return MaskingEnv(bed.world, bed.executor, **{**own, **options})
