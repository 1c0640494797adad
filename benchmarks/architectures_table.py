"""The document of ``benchmarks/architectures.py``: what each architecture gave, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import transformers

from envs.models.architectures import Architecture
from envs.models.checks import Head, has_head
from envs.models.fast_tokenizer import TWINS
from envs.models.new_model import ModelSize

TASKS = ("qa", "classification", "generation", "collator")


@dataclass
class Result:
    """One row: what each task gave."""

    row: Architecture
    cells: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """Sentences of the program, by task."""
    weights: int = 0
    seconds: float = 0.0


def markdown(results: list[Result], size: ModelSize) -> str:
    """The document; ``size`` is that of the models."""
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    lines = [
        "# Architectures",
        "",
        "Made by `python benchmarks/architectures.py --output docs/architectures.md`; do not edit.",
        "",
        f"Every number below was run ({versions}): one episode of the registered environment on a "
        f"small random model ({size.layers} layers, width {size.width}) with a tokenizer of the "
        "architecture's own family, trained on the spot. Mask, further pre-train, fine-tune, "
        "score, reward; twice, with the same reward. A number under a task is that reward (nats "
        "of likelihood gained by masking from the left over random masking: on random weights its "
        "size means nothing, that it is there does); under *collator* it is the masked-LM loss of "
        "a training step. *no*: the program says why, in the sentence below the table.",
        "",
        "| architecture | model type | tokenizer | qa | classification | generation | collator |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        cells = " | ".join(result.cells[task] for task in TASKS)
        row = result.row
        lines.append(f"| {row.title} | `{row.model_type}` | {row.tokenizer} | {cells} |")
    worked = {task: sum(r.cells[task] != "no" for r in results) for task in TASKS}
    counts = ", ".join(f"{task} {count}" for task, count in worked.items())
    lines += ["", f"Of {len(results)} architectures work: {counts}.", "", "## What is handled", ""]
    lines += [f"- {r.row.title}: {r.row.trap}." for r in results if r.row.trap]
    lines += [
        "",
        "All of it is data in `envs/models/architectures.py` and `envs/models/quirks.py`. "
        "Whether batches can go without padding, and whether the vocabulary head can be computed "
        "at masked positions alone, is found by trying when a model is loaded.",
        "",
        "## What the program says where it cannot",
        "",
    ]
    said: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for sentence in dict.fromkeys(result.notes.values()):
            tasks = ", ".join(task for task in TASKS if result.notes.get(task) == sentence)
            kind = result.row.model_type
            told = sentence.replace(f"{kind!r} is a {kind} model", "'NAME' is a TYPE model")
            said.setdefault((told, tasks), []).append(result.row.title)
    for (sentence, tasks), titles in said.items():
        lines.append(f'- {tasks}: "{sentence}"  \n  {", ".join(titles)}')
    python = {r.row.title: python_tokenizer(r.row) for r in results if python_tokenizer(r.row)}
    twins = [title for title, name in python.items() if name in TWINS]
    others = [title for title, name in python.items() if name not in TWINS]
    lines += [
        "",
        "Published checkpoints of some architectures come with a tokenizer that transformers has "
        "only in Python, which does not tell which word a token belongs to. On loading a fast twin "
        f"is made for those of {', '.join(twins) or '-'}, with the same ids but where "
        "`envs/models/moses.py` says that words differ (XLM, FSMT); FSMT's two languages have to "
        "share one vocabulary."
        + (f" For {', '.join(others)} the program asks for a fast one." if others else ""),
    ]
    return "\n".join(lines) + "\n"


def python_tokenizer(row: Architecture) -> str | None:
    """The library's tokenizer of an architecture that works, if it is one in Python only."""
    from transformers import TokenizersBackend
    from transformers.models.auto.tokenization_auto import (
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    heads: tuple[Head, ...] = ("masked", "seq2seq")
    name = TOKENIZER_MAPPING_NAMES.get(row.model_type)
    if name is None or not any(has_head(row.model_type, head) for head in heads):
        return None
    return None if issubclass(tokenizer_class_from_name(name), TokenizersBackend) else name
