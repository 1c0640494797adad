"""Where the adversary stands between random and best masks, in the world where the best is known.

    python benchmarks/adversarial_testbed.py --deals 40 --seeds 20

The masking module learns online while the testbed's language model is further pre-trained on one
generated domain after another (the model starts anew in each, the module goes on). Then it masks
domains it has not seen: greedily, and by drawing. Every masking scores the same domains with the
same seeds. About ten minutes on one core at the numbers above.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agents.adversarial import AdversarialMasking, AdversarySettings
from agents.mask_statistics import MaskStatistics
from agents.strategies import make_strategy
from agents.strategies.counts import token_counts
from envs.further_pretraining import PretrainingSettings, further_pretrain
from envs.models.runtime import tune_runtime
from envs.references import UniformRandom
from envs.testbed import Testbed, best_mask, build_testbed
from envs.text.corpus import Corpus
from nmg.comparison import as_json, tabulate
from nmg.comparison_text import as_text
from nmg.evaluation import Greedy, evaluate, seed_of
from nmg.progress import progress_bar


def learn(bed: Testbed, adversary: AdversarialMasking, deals: int, seed: int) -> list[dict]:
    """Let the module learn over domains; what it prefers in each."""
    lm, settings = bed.language_model, bed.settings
    before, history = lm.snapshot(), []
    with progress_bar() as progress:
        for number in range(deals):
            deal = bed.world.deal(seed_of(seed, "adversary", number))
            lm.restore(before)
            statistics = MaskStatistics(token_counts(deal.contexts, bed.world.vocab_size))
            losses = further_pretrain(
                lm,
                Corpus(deal.contexts, bed.world.tokenizer),
                adversary,
                PretrainingSettings(
                    epochs=settings.pretrain_epochs,
                    batch=16,
                    lr=settings.pretrain_lr,
                    budget=bed.budget,
                    corruption=settings.corruption,
                    seed=number,
                ),
                watch=statistics.add,
            )
            history.append({"deal": number, "loss": losses[-1], **statistics.summary()})
            progress(f"learning, loss {losses[-1]:.2f}", number + 1, deals)
    lm.restore(before)
    return history


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--setting", default="standard", help="easy, standard, matched or small")
    parser.add_argument("--deals", type=int, default=40, help="domains to learn in")
    parser.add_argument("--seeds", type=int, default=20, help="domains to score in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--floor", type=float, default=0.7, help="entropy floor of the module")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    tune_runtime(threads=1)
    bed = build_testbed(args.setting)
    settings = AdversarySettings(entropy_floor=args.floor)
    adversary = AdversarialMasking(bed.world.vocab_size, settings, seed=args.seed)
    history = learn(bed, adversary, args.deals, args.seed)
    deals = [bed.world.deal(seed_of(args.seed, "scored", n)) for n in range(args.seeds)]
    seen = [context for deal in deals for context in deal.contexts]
    idf = make_strategy("idf", tokenizer=bed.world.tokenizer, contexts=seen)
    maskings = {
        "random": UniformRandom(),
        "adversary": Greedy(adversary),
        "adversary, drawn": adversary,
        "idf": idf,
        "best mask": best_mask(bed.world),
        "none": None,
    }
    scores = evaluate(
        bed.world,
        deals,
        maskings,
        bed.executor,
        budget=bed.budget,
        settings=bed.settings,
        run=args.seed,
    )
    table = tabulate(scores, headline="nll", higher_is_better=False, unit="domains")
    print(as_text(table))
    if args.output:
        args.output.write_text(json.dumps({**as_json(table), "learning": history}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
