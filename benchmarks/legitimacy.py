"""Is the fast path the same experiment? Scores of the same jobs, computed in three ways.

    python benchmarks/legitimacy.py                       the testbed, ten seeds
    python benchmarks/legitimacy.py --dataset chemprot    minilm on ChemProt; needs NMG_DATA
    python benchmarks/legitimacy.py --dataset scicite --examples 300 --epochs 4 --learning-rate 1e-4
    python benchmarks/legitimacy.py --dataset chemprot --no-dropout --seeds 3
    python benchmarks/legitimacy.py --dataset chemprot --draws 1000

*stock* runs the scorer on the library's own model: every batch padded, eager attention, the
library's dropout, logits at all positions, the default matrix product. *fp32* and *bf16* are ours.
All share data, order, heads and corruption; stock draws other dropout than ours, so single scores
differ, and their distribution must not. *again* is stock with its dropout drawn once more: what
this difference is when nothing else differs. Without dropout stock and fp32 must agree seed by
seed. Paired by seed, Student's 95% interval. ``--draws`` compares the two dropouts alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM

from envs.adaptation.jobs import ScoreJob
from envs.adaptation.scorer import Scorer
from envs.models.flat import FlatParameters
from envs.models.loading import load_language_model
from envs.models.runtime import tune_runtime
from nmg.assembly import training_setup
from nmg.resolution import resolve_training
from nmg.statistics import compare

SIDES = ("stock", "again", "fp32", "bf16")


class StockModel:
    """What :class:`Scorer` needs of a language model, from the library's parts alone."""

    def __init__(self, folder: Path, tokenizer: Any, width: int) -> None:
        self.model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager")
        self.tokenizer, self.width = tokenizer, width
        self.mask_token_id = tokenizer.mask_token_id
        self.device = torch.device("cpu")
        self.flat = FlatParameters(self.model)
        self.draws = 0

    def snapshot(self) -> Tensor:
        return self.flat.weights.clone()

    def restore(self, weights: Tensor) -> None:
        self.flat.weights.copy_(weights)

    def hidden_states(
        self, sequences: Sequence[np.ndarray], token_types: Any = None, *, pad_to: Any = None
    ) -> Tensor:
        """States of all tokens, (T, D)."""
        del pad_to
        batch, real_BL = self._batch(sequences, token_types)
        return self.model.base_model(**batch).last_hidden_state[real_BL]

    def states_at(
        self, sequences: Sequence[np.ndarray], positions: np.ndarray, token_types: Any = None
    ) -> Tensor:
        """Some of the states of all tokens, (M, D)."""
        return self.hidden_states(sequences, token_types)[torch.from_numpy(positions)]

    def autocast(self) -> Any:
        """Not in lower precision."""
        return nullcontext()

    def trained(self, sequences: Any, weight_decay: float) -> Any:
        """All weights."""
        del sequences, weight_decay
        return nullcontext(self.flat)

    def masked_losses(
        self, sequences: Sequence[np.ndarray], positions: np.ndarray, targets: np.ndarray
    ) -> Tensor:
        """Cross-entropy at some of the tokens, (M,), out of the logits at all."""
        batch, real_BL = self._batch(sequences, None)
        logits_MV = self.model(**batch).logits[real_BL][torch.from_numpy(positions)]
        targets_M = torch.from_numpy(targets.astype(np.int64))
        return cross_entropy(logits_MV, targets_M, reduction="none")

    def _batch(self, sequences: Sequence[np.ndarray], token_types: Any) -> tuple[Any, Tensor]:
        for _ in range(self.draws):
            torch.rand(())  # shifts the dropout that follows
        block = np.zeros((3, len(sequences), max(map(len, sequences))), dtype=np.int64)
        for row, ids in enumerate(sequences):
            types = 0 if token_types is None else token_types[row]
            block[0, row, : len(ids)], block[1, row, : len(ids)] = ids, types
            block[2, row, : len(ids)] = 1
        ids_BL, types_BL, real_BL = torch.from_numpy(block)
        batch = {"input_ids": ids_BL, "attention_mask": real_BL}
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            batch["token_type_ids"] = types_BL
        return batch, real_BL.bool()


def make_scorers(setup: Any, folder: Path, drop: bool) -> dict[str, Any]:
    """One scorer a side, all of the same weights; ``drop`` says whether there is dropout."""
    lm = setup.scorer.language_model
    lm.save(folder)
    if not drop:
        config = folder / "config.json"
        settings = json.loads(config.read_text())
        settings.update({name: 0.0 for name in settings if "dropout" in name})
        config.write_text(json.dumps(settings))
    stock = StockModel(folder, lm.tokenizer, lm.width)
    models: dict[str, Any] = {"stock": stock, "again": stock}
    for precision in ("fp32", "bf16"):
        models[precision] = load_language_model(str(folder), precision=precision)
    return {name: Scorer(model, setup.task) for name, model in models.items()}


def draw_job(setup: Any, settings: Any, budget: float, seed: int) -> ScoreJob:
    """A deal with random masks."""
    deal = setup.world.deal(np.random.SeedSequence(seed))
    rng = np.random.default_rng(seed)
    masks = []
    for context in deal.contexts:
        mask = np.zeros(len(context), dtype=bool)
        count = max(1, int(budget * len(context)))
        mask[rng.choice(np.flatnonzero(context.maskable), size=count, replace=False)] = True
        masks.append(mask)
    return ScoreJob(deal.contexts, masks, deal.train, deal.score, settings, seed)


def run(side: str, scorer: Any, job: ScoreJob) -> dict[str, float]:
    """The job's metrics, with the matrix product that belongs to the side."""
    switch: Any = torch.backends.mkldnn.matmul
    ours = switch.fp32_precision
    if side in ("stock", "again"):
        switch.fp32_precision = "ieee"
        scorer.language_model.draws = int(side == "again")
    try:
        return dict(scorer(job).metrics)
    finally:
        switch.fp32_precision = ours


def compare_dropouts(scorers: dict[str, Any], job: ScoreJob, draws: int) -> None:
    """Print the loss of the same masked contexts, over draws of dropout, without training."""
    model = scorers["fp32"].language_model
    masked = list(zip(job.contexts, job.masks or [], strict=True))[:8]
    ids = [np.where(mask, model.mask_token_id, context.input_ids) for context, mask in masked]
    positions = np.flatnonzero(np.concatenate([mask for _, mask in masked]))
    targets = np.concatenate([context.input_ids for context, _ in masked])[positions]
    found: dict[str, list[float]] = {}
    for side in ("stock", "fp32"):
        lm = scorers[side].language_model
        lm.model.train()
        torch.manual_seed(0)
        with torch.no_grad():
            losses = [float(lm.masked_losses(ids, positions, targets).mean()) for _ in range(draws)]
        found[side] = losses
        print(f"{side:6s} {np.mean(losses):.5f} ± {np.std(losses, ddof=1):.5f}")
    difference = np.mean(found["fp32"]) - np.mean(found["stock"])
    error = float(np.hypot(*(np.std(x, ddof=1) for x in found.values()))) / draws**0.5
    print(f"fp32 - stock: {difference:+.5f}, 95% within {1.96 * error:.5f}, {draws} draws each")


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="testbed", help="testbed, or of classification")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=60, help="to train on; not of the testbed")
    parser.add_argument("--epochs", type=int, help="of fine-tuning (default: the preset's)")
    parser.add_argument("--learning-rate", type=float, help="of fine-tuning (the preset's)")
    parser.add_argument("--no-dropout", action="store_true", help="of the language model")
    parser.add_argument("--draws", type=int, help="of dropout, of one loss; no jobs")
    args = parser.parse_args(argv)
    tune_runtime(threads=1)
    config = resolve_training({"task": "testbed"})
    if args.dataset != "testbed":
        sizes = {"contexts": 30, "train_examples": args.examples, "score_examples": 100}
        tuning = {"finetune_epochs": args.epochs, "finetune_lr": args.learning_rate}
        given = {name: value for name, value in tuning.items() if value is not None}
        flags = {"task": "classification", "dataset": args.dataset, **sizes, **given}
        config = resolve_training(flags, "classification")
    setup = training_setup(config.data, config.episode)
    settings = replace(config.adaptation, finetune_seeds=1)
    with tempfile.TemporaryDirectory() as folder:
        scorers = make_scorers(setup, Path(folder), not args.no_dropout)
    if args.draws:
        job = draw_job(setup, settings, config.episode.budget, seed=0)
        compare_dropouts(scorers, job, args.draws)
        return 0
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(args.seeds):
        job = draw_job(setup, settings, config.episode.budget, seed)
        for side in SIDES:
            found[side].append(run(side, scorers[side], job))
        losses = ", ".join(f"{side} {found[side][-1]['nll']:.6f}" for side in SIDES)
        print(f"seed {seed}, nll: {losses}", file=sys.stderr, flush=True)
    for metric in (setup.task.headline, "nll"):
        report(metric, {side: [row[metric] for row in rows] for side, rows in found.items()})
    return 0


def report(metric: str, found: dict[str, list[float]]) -> None:
    """Means, deviations and the paired differences that matter."""
    for side, values in found.items():
        print(f"{metric:10s} {side:6s} {np.mean(values):9.4f} ± {np.std(values, ddof=1):.4f}")
    for side, other in (("again", "stock"), ("fp32", "stock"), ("bf16", "fp32"), ("bf16", "stock")):
        c = compare(found[side], found[other])
        verdict = "a difference" if c.low > 0 or c.high < 0 else "no detectable difference"
        print(
            f"{metric:10s} {side} - {other}: {c.difference:+.3g} [{c.low:+.3g}, {c.high:+.3g}], "
            f"{c.pairs} pairs: {verdict}"
        )


if __name__ == "__main__":
    sys.exit(main())
