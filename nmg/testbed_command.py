"""``nmg testbed``: a look at the world with a known best mask, and what masks are worth there."""

from __future__ import annotations

import argparse
import sys
from typing import Any

EXAMPLES = """examples:
  nmg testbed                     a few documents, their informative words in colour
  nmg testbed --seeds 10          and what none, random, idf and the best mask score
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``testbed`` on the command line."""
    parser = subparsers.add_parser(
        "testbed",
        help="show the world with a known best mask",
        description="Show documents of the generated world and the tokens worth masking; with "
        "--seeds, score fixed maskings in it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", default="testbed", help="setting: easy, standard, hard, ...")
    parser.add_argument("--documents", type=int, default=4, help="to show (default: 4)")
    parser.add_argument("--seeds", type=int, default=0, help="domains to score in (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the domain shown (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the documents, then the scores."""
    from nmg.assembly import generated_stage
    from nmg.evaluation import seed_of
    from nmg.training import prepare_process

    prepare_process()
    stage = generated_stage(args.dataset)
    deal = stage.world.deal(seed_of(args.seed, "shown", 0))
    print(
        f"An episode: {len(deal.contexts)} documents to mask, {len(deal.train)} labelled ones to "
        f"fine-tune on, {len(deal.score)} to score on.\n"
    )
    for context, best in list(zip(deal.contexts, deal.informative or (), strict=True))[
        : args.documents
    ]:
        print("  " + _shown(context, best, stage.world.tokenizer))
    if args.seeds:
        print("\n" + _scores(stage, args.seeds, args.seed))
    return 0


def _shown(context: Any, best: Any, tokenizer: Any) -> str:
    from nmg.mask_command import painted, use_colour

    words, spans, at = [], [], 0
    for token, informative in zip(context.input_ids, best, strict=True):
        word = tokenizer.decode([int(token)])
        if informative:
            spans.append((at, at + len(word)))
        words.append(word)
        at += len(word) + 1
    return painted(" ".join(words), spans, use_colour(sys.stdout))


def _scores(stage: Any, seeds: int, seed: int) -> str:
    from envs.adaptation.executor import SerialExecutor
    from envs.references import UniformRandom
    from envs.testbed import best_mask, worst_mask
    from nmg.comparison import as_text, tabulate
    from nmg.config import resolve_training
    from nmg.evaluation import evaluate, seed_of
    from nmg.maskings import strategy

    config = resolve_training({"task": "testbed"})
    deals = [stage.world.deal(seed_of(seed, "shown", n)) for n in range(seeds)]
    contexts = [context for deal in deals for context in deal.contexts]
    maskings = {
        "none": None,
        "random": UniformRandom(),
        "idf": strategy("idf", stage.world, contexts),
        "best mask": best_mask(stage.world),
        "worst mask": worst_mask(stage.world),
    }
    scores = evaluate(
        stage.world,
        deals,
        maskings,
        SerialExecutor(stage.scorer),
        budget=config.episode.budget,
        settings=config.adaptation,
        run=seed,
    )
    return as_text(tabulate(scores, headline="nll", higher_is_better=False, unit="domains"))
