"""Which architectures work: one real episode each, on a small random model; writes the table.

    python benchmarks/architectures.py --output docs/architectures.md

For every architecture of the table in ``envs/models/architectures.py`` a small model is made and
saved with a tokenizer of its family, and loaded as a user would load it. Then, for each task, one
episode of the registered environment is played: mask, further pre-train, fine-tune, score, reward.
The collator feeds one training step of the plain transformers model. Where something cannot be
done, the cell says why in the words that the program itself uses.

No data and no network are needed; about ten minutes on one core. ``--only bert t5`` runs some.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gymnasium as gym
import torch
import transformers
from architectures_table import TASKS, Result, markdown

from envs.adaptation.jobs import AdaptationSettings
from envs.models.architectures import ARCHITECTURES, Architecture
from envs.models.checks import Head, has_head
from envs.models.loading import load_language_model
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import Family, train_tokenizer
from envs.models.quirks import padded_length
from nmg.collator import MaskingCollator

SIZE = ModelSize(width=32, layers=2, heads=2, length=128)
SETTINGS = AdaptationSettings(
    pretrain_epochs=2,
    pretrain_batch=4,
    pretrain_lr=1e-2,
    finetune_epochs=2,
    finetune_batch=4,
    finetune_lr=1e-2,
)
EPISODE = {"contexts_per_episode": 8, "budget": 0.2, "reward": "nll_gain", "settings": SETTINGS}

PLACES = ("Arden", "Holt", "Merrow", "Saxby", "Tarn", "Velden", "Wick", "Yarrow")
TRADES = ("engineer", "baker", "painter", "sailor")


def stories() -> list[dict[str, str]]:
    """Short texts with a question, a class and a shorter version of each."""
    rows = []
    for number, place in enumerate(PLACES * 3):
        trade = TRADES[(number * 5 + number // 8) % len(TRADES)]
        year = str(1850 + 7 * number)
        text = f"In {year} the {trade} of {place} built a bridge over the river, people say."
        rows.append(
            {
                "text": text,
                "question": f"When did the {trade} build the bridge?",
                "answer": year,
                "label": trade,
                "short": f"{trade} of {place}: bridge",
            }
        )
    return rows


def write_data(folder: Path) -> dict[str, Path]:
    """The three data sets, in the files of their tasks."""
    rows = stories()
    paragraphs = [
        {
            "context": row["text"],
            "qas": [
                {
                    "id": str(number),
                    "question": row["question"],
                    "answers": [
                        {"text": row["answer"], "answer_start": row["text"].index(row["answer"])}
                    ],
                }
            ],
        }
        for number, row in enumerate(rows)
    ]
    articles = {"data": [{"title": "bridges", "paragraphs": paragraphs}]}
    files = {
        "qa": ("qa.json", json.dumps(articles)),
        "classification": (
            "rows.jsonl",
            "\n".join(json.dumps({"text": row["text"], "label": row["label"]}) for row in rows),
        ),
        "generation": (
            "pairs.jsonl",
            "\n".join(json.dumps({"source": row["text"], "target": row["short"]}) for row in rows),
        ),
    }
    for name, content in files.values():
        (folder / name).write_text(content, encoding="utf-8")
    return {task: folder / name for task, (name, _) in files.items()}


def save_model(row: Architecture, head: Head, tokenizer: Any, folder: Path) -> int:
    """A folder as a user might have it: a model if there can be one, else its configuration."""
    tokenizer.save_pretrained(folder)
    if has_head(row.model_type, head):
        model = new_model(row.model_type, head, tokenizer, SIZE)
        model.save_pretrained(folder)
        return sum(parameter.numel() for parameter in model.parameters())
    (folder / "config.json").write_text(json.dumps({"model_type": row.model_type}))
    return 0


def play(task: str, dataset: Path, model: Path) -> str:
    """One episode; the reward, and what shows that it was a real one."""
    ids = {"qa": "MaskQA", "classification": "MaskClassification", "generation": "MaskGeneration"}
    longest = {"generation": {"max_target_length": 24}}.get(task, {"max_length": 96})
    stride = {"stride": 16} if task == "qa" else {}
    made = gym.make(
        f"nmg:nmg/{ids[task]}-v0",
        dataset=str(dataset),
        model=str(model),
        window=60,
        held_out=0.25,
        **EPISODE,
        **longest,
        **stride,
    )
    env: Any = made.unwrapped
    env.reset(seed=0)
    masks = env.observe_episode()["maskable"]
    _, reward, terminated, _, info = env.step_episode(masks)
    assert terminated
    scores = info["scores"]["agent"]
    assert all(map(math.isfinite, scores.values())), scores
    assert reward != 0, "the masks made no difference"
    env.executor.scores.clear()  # else it would remember
    env.reset(seed=0)
    assert env.step_episode(masks)[1] == reward, "the same episode gave another reward"
    return f"{reward:+.2g}"


def collate(model: Path) -> str:
    """A training step of the library's own model, as its ``Trainer`` does it."""
    tokenizer = load_language_model(str(model)).tokenizer  # refuses what cannot be masked
    plain = transformers.AutoModelForMaskedLM.from_pretrained(model)
    collator = MaskingCollator(
        tokenizer, "whole_word", budget=0.3, pad_to_multiple_of=padded_length(plain.config, 1)
    )
    loss = plain.train()(**collator([{"text": row["text"]} for row in stories()[:4]])).loss
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
    return f"{loss.item():.2f}"


def examine(row: Architecture, tokenizer: Any, data: dict[str, Path], folder: Path) -> Result:
    """All cells of a row."""
    result, started = Result(row), time.perf_counter()
    folders: dict[Head, Path] = {}
    heads: tuple[Head, ...] = ("masked", "seq2seq")
    for head in heads:
        folders[head] = folder / f"{row.model_type}-{head}"
        folders[head].mkdir()
        result.weights = max(result.weights, save_model(row, head, tokenizer, folders[head]))
    work: dict[str, Callable[[], str]] = {
        task: lambda task=task: play(task, data[task], folders["masked"])  # type: ignore[misc]
        for task in ("qa", "classification")
    }
    work["generation"] = lambda: play("generation", data["generation"], folders["seq2seq"])
    work["collator"] = lambda: collate(folders["masked"])
    for task, do in work.items():
        try:
            result.cells[task] = do()
        except (ValueError, OSError) as error:
            told = str(error)
            if not _is_ours(error):
                raise
            result.cells[task] = "no"
            for path in folders.values():
                told = told.replace(repr(str(path)), f"'{row.model_type}'")
            result.notes[task] = told
    result.seconds = time.perf_counter() - started
    return result


def _is_ours(error: Exception) -> bool:
    """Whether the sentence was written by this project, and not by a library that broke."""
    from nmg.cli import _is_users

    return _is_users(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="markdown file (default: print)")
    parser.add_argument("--only", nargs="+", choices=sorted(ARCHITECTURES), metavar="TYPE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    texts = [row[name] for row in stories() for name in ("text", "question", "short")]
    tokenizers: dict[Family, Any] = {}
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_data(folder)
        for model_type, row in ARCHITECTURES.items():
            if args.only and model_type not in args.only:
                continue
            if row.tokenizer not in tokenizers:
                tokenizers[row.tokenizer] = train_tokenizer(
                    texts, row.tokenizer, vocab_size=400, max_length=SIZE.length
                )
            result = examine(row, tokenizers[row.tokenizer], data, folder)
            results.append(result)
            cells = "  ".join(f"{task} {result.cells[task]}" for task in TASKS)
            print(f"{row.title:<22}{cells}  ({result.seconds:.1f} s)", file=sys.stderr, flush=True)
    text = markdown(results, SIZE)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
