"""``nmg adapt``: further pre-train a language model with any masking, and save it."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from envs.folders import check_output, whole_folder, write_text
from envs.further_pretraining import PretrainingSettings
from nmg.checkpoint import MASKING, chosen_checkpoint
from nmg.corpora import add_source, source_texts
from nmg.limits import refuse_diverged, refuse_idle_reference
from nmg.online import ADVERSARIAL
from nmg.options import ConfigError, add_flags, build, differences, given_flags, user_path
from nmg.run_folders import finite

if TYPE_CHECKING:
    from agents.mask_statistics import MaskStatistics
    from envs.adaptation.jobs import Progress
    from envs.models.language_model import LanguageModel
    from envs.text.corpus import Context, Corpus
    from nmg.forecast import Forecast

EXAMPLES = """examples:
  nmg adapt --model minilm --corpus domain.txt --strategy idf --output models/domain
  nmg adapt --model minilm --dataset chemprot --policy output/chemprot/minilm/a_neural \\
            --budget 0.05 --greedy --output models/chemprot
  nmg adapt --model minilm --corpus domain.txt --strategy adversarial --output models/domain
"""
RECORD = "adapt.json"
WINDOWS = 10
"""Stretches of the training for which the masks' preferences are told apart."""


@dataclass(frozen=True)
class ModelConfig:
    """The language model and its contexts."""

    model: str = "minilm"
    """``bert``, ``distilbert``, ``minilm``, a hub id or a folder."""
    reference: str | None = None
    """File of general text; the strategy `difference` masks what sets the domain apart from it."""
    window: int = 126
    """Content tokens of a context; special tokens come on top."""
    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of matrix products (weights stay fp32): auto is bf16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"window is {self.window}; it must be at least 1.")


@dataclass(frozen=True)
class AdaptConfig:
    """Everything ``nmg adapt`` can be told, besides corpus and masking."""

    data: ModelConfig = field(default_factory=ModelConfig)
    training: PretrainingSettings = field(default_factory=PretrainingSettings)


def add_parser(subparsers: Any) -> None:
    """Mount ``adapt`` on the command line."""
    parser = subparsers.add_parser(
        "adapt",
        help="further pre-train a model and save it",
        description="Further pre-train a masked language model on a corpus, with masks of any "
        "strategy, of a learned policy, or of an adversary that learns on the way; save it as a "
        "folder that every other program, and transformers, can load. It is saved at the end: of a "
        "training that is stopped nothing is kept.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_source(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--strategy",
        default="random",
        metavar="NAME",
        help="e.g. idf or span; `adversarial` learns from the model's losses (default: random)",
    )
    who.add_argument(
        "--policy", type=user_path, metavar="DIR", help="a run, a checkpoint or a saved adversary"
    )
    parser.add_argument(
        "--output", type=user_path, required=True, metavar="DIR", help="folder to write"
    )
    add_flags(parser, AdaptConfig, sources=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, measure on held-out text, save."""
    from transformers.utils import logging

    from agents.adversarial import AdversarialMasking
    from envs.further_pretraining import further_pretrain
    from envs.models.loading import load_language_model
    from envs.models.prepare import masked_lm_quality
    from envs.models.runtime import tune_runtime
    from nmg.assembly import thread_count
    from nmg.progress import progress_bar

    config = build(AdaptConfig, given_flags(AdaptConfig, args))
    strategies = [] if args.policy else [args.strategy]
    refuse_idle_reference(config.data.reference, strategies)
    check_output(args.output)
    tune_runtime(threads=thread_count())
    data = config.data
    lm = load_language_model(data.model, device=data.device, precision=data.precision)
    corpus, held_out = _corpus(args, lm, data.window, config.training.seed)
    policy = _policy(args, config, corpus, lm)
    before = masked_lm_quality(lm, held_out)
    print(
        f"{len(corpus)} contexts to train on, {len(held_out)} held out.\n"
        f"before: {before.loss:.3f} nats, {before.accuracy:.1f}% right",
        flush=True,
    )
    predicted = _forecast(lm, corpus, policy, config.training)
    print(predicted, flush=True)
    started = time.perf_counter()
    log = MaskLog(corpus, len(lm.tokenizer), config.training)
    with progress_bar() as progress:
        losses = further_pretrain(lm, corpus, policy, config.training, progress=progress, watch=log)
    after = masked_lm_quality(lm, held_out)
    refuse_diverged(after.loss, config.training.lr)
    logging.disable_progress_bar()
    record = {
        "masking": str(args.policy or args.strategy),
        "settings": differences(config),
        "before": asdict(before),
        "after": asdict(after),
        "losses": losses,
        "preferences": log.summaries(),
    }
    with whole_folder(args.output) as folder:
        lm.save(folder)
        if isinstance(policy, AdversarialMasking):
            policy.save(folder / MASKING)
        write_text(folder / RECORD, json.dumps(finite(record), indent=2) + "\n")
    print(f"after:  {after.loss:.3f} nats, {after.accuracy:.1f}% right (randomly masked tokens)")
    print(log.table())
    print(f"{predicted.against(time.perf_counter() - started)} The model is in {args.output}.")
    return 0


def _forecast(
    lm: LanguageModel, corpus: Corpus, policy: Any, settings: PretrainingSettings
) -> Forecast:
    from envs.further_pretraining import further_pretrain
    from envs.text.corpus import Corpus
    from nmg.forecast import Forecast
    from nmg.probe import seconds_a_step

    weights = lm.snapshot()

    def trial(steps: int, progress: Progress) -> None:
        some = Corpus(corpus.contexts[: steps * settings.batch], corpus.tokenizer)
        masking = copy.deepcopy(policy) if hasattr(policy, "feedback") else policy
        further_pretrain(lm, some, masking, replace(settings, epochs=1), progress=progress)
        lm.restore(weights)

    steps, tokens = settings.steps(len(corpus)), settings.epochs * sum(map(len, corpus))
    seconds = steps * seconds_a_step(trial, steps // settings.epochs)
    return Forecast(steps, {"further pre-training": tokens}, seconds, unit="step")


def _corpus(
    args: argparse.Namespace, lm: LanguageModel, window: int, seed: int
) -> tuple[Corpus, list[Context]]:
    from envs.models.prepare import held_out_split
    from envs.text.corpus import build_corpus

    whole = build_corpus(source_texts(args), lm.tokenizer, lm.window(window))
    return held_out_split(whole, seed)


def _policy(
    args: argparse.Namespace, config: AdaptConfig, corpus: Corpus, lm: LanguageModel
) -> Any:
    from agents.adversarial import AdversarialMasking
    from agents.strategies import NoMask, make_strategy
    from envs.models.states import TokenStates
    from nmg.maskings import of_model

    seed, vocab_size = config.training.seed, len(lm.tokenizer)
    if args.policy is not None:
        return _saved_policy(args.policy, config.data)
    if args.strategy == ADVERSARIAL:
        known = TokenStates(lm).vocabulary
        return AdversarialMasking(vocab_size, seed=seed, device=lm.device, vocabulary=known)
    made = make_strategy(
        args.strategy,
        tokenizer=lm.tokenizer,
        contexts=corpus.contexts,
        texts=corpus.texts or None,
        seed=seed,
        **of_model(args.strategy, lm, config.data.reference, config.data.window),
    )
    if isinstance(made, NoMask):
        raise ValueError("Nothing can be learned without masks: give a strategy other than none.")
    return made


def _saved_policy(folder: Path, data: ModelConfig) -> Any:
    from envs.models.loading import load_language_model
    from envs.models.states import TokenStates
    from nmg.maskings import load_policy

    # A policy reads the states of the model as it was: the one in training changes under it.
    twin = load_language_model(data.model, device=data.device, precision=data.precision)
    return load_policy(chosen_checkpoint(folder), TokenStates(twin), len(twin.tokenizer))


class MaskLog:
    """What the masks prefer, in each of some stretches of the training."""

    def __init__(self, corpus: Corpus, vocab_size: int, settings: PretrainingSettings) -> None:
        from agents.strategies.counts import token_counts

        self._counts_V = token_counts(corpus.contexts, vocab_size)
        self._each = max(1, -(-settings.steps(len(corpus)) // WINDOWS))
        self._steps = 0
        self._parts: list[MaskStatistics] = []

    def __call__(
        self, observation: dict[str, np.ndarray], masks: np.ndarray, losses: np.ndarray
    ) -> None:
        from agents.mask_statistics import MaskStatistics

        if self._steps % self._each == 0:
            self._parts.append(MaskStatistics(self._counts_V))
        self._steps += 1
        self._parts[-1].add(observation, masks, losses)

    def summaries(self) -> list[dict[str, float]]:
        """One a stretch, with the ``step`` it ends at."""
        ends = [min(self._steps, (n + 1) * self._each) for n in range(len(self._parts))]
        return [
            {"step": end, **part.summary()} for end, part in zip(ends, self._parts, strict=True)
        ]

    def table(self) -> str:
        """The preferences as text."""
        lines = [
            "\nwhat was masked: rank correlation of a token type's mask rate with its rarity and "
            "with the\nmodel's loss on it (-: too few of each type); share of the masked tokens "
            "that are among\nthe 100 most frequent types\n",
            f"{'step':>8}{'rarity':>10}{'loss':>10}{'frequent':>10}",
        ]
        lines += [
            f"{part['step']:>8}{_figure(part['rarity'])}{_figure(part['difficulty'])}"
            f"{part['frequent']:>10.1%}"
            for part in self.summaries()
        ]
        return "\n".join(lines) + "\n"


def _figure(value: float) -> str:
    return f"{value:>10.2f}" if math.isfinite(value) else f"{'-':>10}"
