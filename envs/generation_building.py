"""The world and the environment of text generation, from names."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from envs.adaptation.executor import SerialExecutor
from envs.adaptation.generation_scorer import GenerationScorer, GenerationSettings
from envs.adaptation.jobs import AdaptationSettings
from envs.building import taken
from envs.fragment_env import FragmentMaskingEnv
from envs.models.loading import load_seq2seq
from envs.models.runtime import Precision
from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import Generation
from envs.text.corpus import target_language
from envs.text.datasets import load_splits
from envs.text.examples import GenerationExample, example_text
from envs.text_world import TextWorld

Metric = Literal["bleu", "rouge"]
Side = Literal["source", "target"]

METRICS: Mapping[str, Metric] = {"scitldr": "rouge"}
"""Metric by named data set; BLEU for all others."""


def target_text(example: GenerationExample) -> str:
    """The text that is to be written."""
    return example.targets[0]


def build_generation_task(
    dataset: str | Path,
    model: Seq2SeqModel,
    *,
    metric: Metric | None = None,
    max_source_length: int = 128,
    max_target_length: int = 128,
    prefix: str = "",
) -> Generation:
    """The task of a data set; longer texts than the model takes are cut."""
    return Generation(
        model.tokenizer,
        metric or METRICS.get(str(dataset), "bleu"),
        min(max_source_length, model.max_source_length),
        min(max_target_length, model.max_length),
        prefix,
    )


def build_generation_world(
    dataset: str | Path,
    model: Seq2SeqModel,
    task: Generation,
    *,
    data_dir: str | Path | None = None,
    strict: bool = False,
    columns: tuple[str, str] | None = None,
    side: Side = "source",
    window: int = 126,
    **options: Any,
) -> TextWorld:
    """The world of a data set's training pairs.

    Args:
        dataset: a named data set, a file or a folder.
        model: gives the tokenizer and the longest input.
        task: of ``build_generation_task``.
        data_dir: folder of the named data sets.
        strict: raise on the first row that would be skipped.
        columns: names of the source and the target column, where not the usual.
        side: which texts of the pairs are the contexts to mask.
        window: content tokens of a context, never more than the model takes.
        **options: those of ``TextWorld``.
    """
    splits = load_splits(
        dataset,
        task="generation",
        data_dir=data_dir,
        strict=strict,
        columns=columns,
        parts=("train",),
    )
    # All texts that the world tokenizes while it is made are contexts.
    with target_language(model.tokenizer) if side == "target" else nullcontext():
        return TextWorld(
            task,  # type: ignore[arg-type]  # its features are pairs, its metrics those of texts
            splits.train,
            model.tokenizer,
            window=model.window(window),
            text=example_text if side == "source" else target_text,
            **options,
        )


def make_generation_env(
    dataset: str | Path,
    model: str,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    languages: tuple[str, str] | None = None,
    generation: GenerationSettings | None = None,
    settings: AdaptationSettings | None = None,
    **options: Any,
) -> FragmentMaskingEnv:
    """Entry point of ``nmg/MaskGeneration-v0``.

    Args:
        dataset: a named data set, a file or a folder.
        model: a hub id or a folder (``nmg new-lm`` makes one).
        device: of the language model.
        precision: of its matrix products.
        languages: source and target, for models that want them.
        generation: beams and label smoothing.
        settings: how fragments become a score; three epochs of fine-tuning if not given.
        **options: those of ``build_generation_task``, ``build_generation_world`` (and so
            ``TextWorld``) and ``FragmentMaskingEnv``.
    """
    loaded = load_seq2seq(model, device=device, precision=precision, languages=languages)
    task = build_generation_task(dataset, loaded, **taken(options, build_generation_task))
    of_world = taken(options, build_generation_world, TextWorld)
    world = build_generation_world(dataset, loaded, task, **of_world)
    scorer = GenerationScorer(loaded, task, settings=generation)
    defaults = {
        "settings": AdaptationSettings(finetune_epochs=3) if settings is None else settings,
        "headline": task.headline,
        "higher_is_better": task.higher_is_better,
    }
    return FragmentMaskingEnv(world, SerialExecutor(scorer), **{**defaults, **options})
