"""A data set and a model folder so small that a whole run takes a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nmg.cli import main
from tests.conftest import SENTENCES

SUBJECTS = ("the river", "the bridge", "the town", "the film", "the music", "marie holt")
GOOD, BAD = ("good", "great"), ("sad", "earlier")


def write_texts(folder: Path, count: int = 60) -> Path:
    """A classification data set ``train.jsonl``, ``test.jsonl``: is the last word a good one?"""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, rows in (("train", count), ("test", count // 3)):
        lines = []
        for number in range(rows):
            label = ("bad", "good")[number % 2]
            words = [rng.choice(SUBJECTS), "flows to", rng.choice(SUBJECTS), "and is"]
            words.append(rng.choice(GOOD if label == "good" else BAD))
            lines.append(json.dumps({"text": " ".join(words) + f" {number}", "label": label}))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_model(folder: Path, model, tokenizer) -> Path:
    """Save a tiny masked LM as a model folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_pairs(folder: Path) -> Path:
    """Pairs of source and target in three splits, and beside them a model made of them."""
    backwards = [" ".join(reversed(text.split())) for text in SENTENCES]
    for split, texts in (("train", SENTENCES * 4), ("dev", backwards), ("test", backwards)):
        rows = [
            {"source": f"{n} {text}", "target": text.split(" ", 3)[-1]}
            for n, text in enumerate(texts)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    size = ["--width", "16", "--layers", "1", "--heads", "2", "--length", "64"]
    (folder / "corpus.txt").write_text("\n".join(SENTENCES))
    where = ["--corpus", str(folder / "corpus.txt"), "--output", str(folder / "model")]
    assert main(["new-lm", "--vocab-size", "330", *where, *size]) == 0
    return folder


def train_arguments(data: Path, model: Path) -> list[str]:
    """Flags of ``nmg train`` for a run of about a second."""
    flags = {
        "task": "classification",
        "dataset": data,
        "model": model,
        "workers": 1,
        "contexts": 6,
        "train-examples": 8,
        "score-examples": 6,
        "finetune-epochs": 1,
        "pretrain-epochs": 1,
        "budget": 0.2,
        "window": 24,
        "max-length": 32,
        "stride": 8,
        "episodes": 4,
        "checkpoint-every": 2,
        "validation-episodes": 1,
        "updates": 2,
        "components": 8,
        "width": 16,
        "seed": 3,
    }
    arguments = ["train", "--no-tensorboard"]
    for name, value in flags.items():
        arguments += [f"--{name}", str(value)]
    return arguments
