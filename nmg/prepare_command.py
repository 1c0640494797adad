"""``nmg prepare-lm``: train the masked-LM head that a published encoder lacks, and cache it."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.folders import check_output
from envs.models.prepare import PreparationSettings
from nmg.corpora import AS_TEXT, corpus_texts
from nmg.limits import refuse_diverged
from nmg.options import add_flags, build, given_flags, user_path

if TYPE_CHECKING:
    from envs.adaptation.jobs import Progress
    from envs.models.language_model import LanguageModel
    from envs.text.corpus import Corpus
    from nmg.forecast import Forecast
    from nmg.probe import Trial

EXAMPLES = """examples:
  nmg prepare-lm --model minilm --corpus wikitext-2/train.txt.gz
  nmg prepare-lm --model ./my-encoder --corpus a.txt b.txt --steps 5000 --output ./my-lm
"""


@dataclass(frozen=True)
class PreparationConfig:
    """Everything that can be set about the training."""

    training: PreparationSettings = field(default_factory=PreparationSettings)


def add_parser(subparsers: Any) -> None:
    """Mount ``prepare-lm`` on the command line."""
    parser = subparsers.add_parser(
        "prepare-lm",
        help="train a masked-LM head where one lacks",
        description="Train the masked-LM head of an encoder that was published without one, then "
        "the whole model, on plain text. Without --output the model is cached and found by its "
        "name from then on; a folder is always loaded as it is and needs an --output. Nothing is "
        "kept of a training that is stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        type=os.path.expanduser,
        default="minilm",
        help="name or folder (default: minilm)",
    )
    parser.add_argument(
        "--corpus",
        type=user_path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="plain text, JSON lines, parquet, .gz",
    )
    parser.add_argument("--output", type=user_path, help="folder to write (default: the cache)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    add_flags(parser, PreparationConfig, sources=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, measure on held-out text, save."""
    from envs.models.loading import load_language_model
    from envs.models.names import prepared_folder
    from envs.models.prepare import (
        held_out_split,
        masked_lm_quality,
        save_language_model,
        train_masked_lm,
    )
    from envs.models.runtime import tune_runtime
    from envs.text.corpus import build_corpus
    from nmg.assembly import thread_count
    from nmg.progress import progress_bar

    settings = build(PreparationConfig, given_flags(PreparationConfig, args)).training
    if args.output is not None:
        check_output(args.output)
    elif Path(args.model).is_dir():
        raise ValueError(f"{args.model} is a folder, which stays as it is; give an --output.")
    tune_runtime(threads=thread_count())
    lm = load_language_model(
        args.model, device=args.device, precision=args.precision, cold_head=True
    )
    texts = corpus_texts(args.corpus, AS_TEXT)
    contexts = build_corpus(texts, lm.tokenizer, lm.window(settings.window))
    corpus, held_out = held_out_split(contexts, settings.seed)
    print(f"{len(corpus)} contexts to train on, {len(held_out)} held out.")
    before = masked_lm_quality(lm, held_out)
    print(f"before: {before.loss:.2f} nats, {before.accuracy:.1f}% right", flush=True)
    predicted = _forecast(lm, corpus, settings)
    print(predicted, flush=True)
    started = time.perf_counter()
    with progress_bar() as progress:
        train_masked_lm(lm, corpus, settings, progress)
    after = masked_lm_quality(lm, held_out)
    refuse_diverged(after.loss, settings.lr)
    folder = args.output or prepared_folder(args.model)
    save_language_model(lm, folder, after)
    print(f"after:  {after.loss:.2f} nats, {after.accuracy:.1f}% right")
    print(f"{predicted.against(time.perf_counter() - started)} The model is in {folder}.")
    return 0


def _forecast(lm: LanguageModel, corpus: Corpus, settings: PreparationSettings) -> Forecast:
    from envs.models.prepare import head_weights, train_masked_lm
    from nmg.forecast import Forecast
    from nmg.probe import seconds_a_step

    weights = lm.snapshot()

    def trial(kind: str) -> Trial:
        def train(steps: int, progress: Progress) -> None:
            counts = {"head_steps": 0, "steps": 0} | {kind: steps}
            train_masked_lm(lm, corpus, replace(settings, **counts), progress)
            lm.restore(weights)

        return train

    head_steps = settings.head_steps if head_weights(lm) else 0
    counts = {"head_steps": head_steps, "steps": settings.steps}
    seconds = sum(n * seconds_a_step(trial(kind), n) for kind, n in counts.items() if n)
    steps = sum(counts.values())
    length = float(np.mean([len(context) for context in corpus]))
    tokens = round(steps * settings.batch * length)
    return Forecast(steps, {"masked-LM training": tokens}, seconds, unit="step")
