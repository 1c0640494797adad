"""A Hugging Face data collator that masks with any policy or strategy.

    collator = MaskingCollator(tokenizer, "whole_word", budget=0.15)
    Trainer(model, TrainingArguments(..., remove_unused_columns=False),
            train_dataset=dataset, data_collator=collator)

``remove_unused_columns=False`` keeps the columns ``text`` and ``word_ids``, which are no arguments
of the model, for the collator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.data import get_worker_info

from agents.strategies import NoMask, make_strategy
from agents.strategies.base import Batch
from agents.strategies.schedules import Masks
from agents.strategies.selection import highest, uniform_draws
from envs.references import reseed
from envs.spaces import check_budget, pad_contexts
from envs.text.corpus import Context, special_marks
from envs.text.corruption import corrupt
from envs.text.words import WordIds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUMBERS = 1 << 31
_LONGEST = 100_000
"""Tokenizers without a limit of their own report astronomic ones."""


class MaskingCollator:
    """Makes masked-LM batches out of tokenized examples or raw texts, on the fly.

    Each feature is a mapping with either ``text``, or ``input_ids`` and, as far as there are,
    ``word_ids`` (-1 or None outside of words), ``attention_mask`` and ``special_tokens_mask``. Word
    ids are taken as they are given; else the words are those of ``envs.text.words``, guessed
    where there is no text.

    Masks are new in every batch and reproducible: batch n is masked and corrupted from (seed, n).
    In the workers of a ``DataLoader``, n counts the worker's batches, and the worker's number and
    the loader's own seed of the epoch are added: seed torch to get the same masks again.

    Args:
        tokenizer: a fast tokenizer with a mask and a pad token.
        policy: a learned policy, a strategy, or the name of one that needs the tokenizer at most.
        budget: share of the real tokens of each example to mask, in (0, 1]; at least one token.
        corruption: ``bert``: 80% mask token, 10% random token, 10% unchanged; ``mask``: all mask
            tokens.
        seed: of the masks and the corruption.
        max_length: longer texts and id sequences are cut; ``None`` is the tokenizer's limit.
        pad_to_multiple_of: widths of batches are multiples of it.
        deterministic: handed to the policy's ``predict``.

    Raises:
        ValueError: if the tokenizer or a setting cannot be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        policy: Masks | str = "random",
        budget: float = 0.05,
        corruption: Literal["bert", "mask"] = "bert",
        seed: int = 0,
        *,
        max_length: int | None = None,
        pad_to_multiple_of: int = 1,
        deterministic: bool = False,
    ) -> None:
        _check(tokenizer, budget, corruption)
        # Of a shorter text nothing would be left beside the special tokens.
        shortest = tokenizer.num_special_tokens_to_add() + 1
        _check_whole("max_length", shortest if max_length is None else max_length, shortest)
        _check_whole("pad_to_multiple_of", pad_to_multiple_of, 1)
        _check_whole("seed", seed, 0)
        if isinstance(policy, str):
            policy = make_strategy(policy, tokenizer=tokenizer)
        if isinstance(policy, NoMask):
            raise ValueError(
                "Nothing can be learned without masks: give a strategy other than none."
            )
        if isinstance(policy, type) or not hasattr(policy, "predict"):
            raise ValueError(
                f"policy is {policy!r}; give the name of a strategy, or what has `predict`."
            )
        self.tokenizer, self.policy, self.budget = tokenizer, policy, budget
        self.corruption, self.seed, self.deterministic = corruption, seed, deterministic
        self.max_length = max_length or min(tokenizer.model_max_length, _LONGEST)
        self.pad_to_multiple_of = pad_to_multiple_of
        self._special = sorted(set(tokenizer.all_special_ids))
        self._marks, self._words = special_marks(tokenizer), WordIds(tokenizer)
        self._size = max(tokenizer.get_vocab().values()) + 1  # vocabularies may have gaps
        self._batches = 0
        self._texts: dict[int, bytes] = {}

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad, mask and corrupt a batch.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels`` (-100 where nothing is to be
            predicted), int64, each (B, L).

        Raises:
            ValueError: if a feature cannot be read, or nothing of the batch can be masked.
        """
        if not features:
            raise ValueError("The batch is empty: give at least one feature.")
        contexts = [self._context(feature) for feature in features]
        if not any(context.maskable.any() for context in contexts):
            # The mean loss over nothing is NaN, and one such step ruins a run.
            raise ValueError(
                f"No token of the batch's {len(contexts)} examples can be masked: they hold "
                "special tokens and padding alone. Leave empty texts out, or take larger batches."
            )
        rng = self._generator()
        longest = max(map(len, contexts))
        observation = pad_contexts(
            contexts,
            np.array([self._number(context) for context in contexts]),
            self.tokenizer,
            length=-(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of,
            budget=self.budget,
        )
        input_ids, labels = corrupt(
            observation["input_ids"],
            self._mask(observation, rng),
            mask_token_id=self.tokenizer.mask_token_id,
            vocab_size=len(self.tokenizer),
            special_ids=self._special,
            rule=self.corruption,
            rng=rng,
        )
        batch = {
            "input_ids": input_ids,
            "attention_mask": observation["attention_mask"],
            "labels": labels,
        }
        return {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}

    def _generator(self) -> np.random.Generator:
        worker, key = get_worker_info(), [self.seed, self._batches]
        if worker is not None:
            key += [worker.id, worker.seed - worker.id]
        self._batches += 1
        return np.random.default_rng(key)

    def _mask(self, observation: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """The policy's mask, bool (B, L), without what it must not mask."""
        reseed(self.policy, rng)
        mask_BL, _ = self.policy.predict(observation, deterministic=self.deterministic)
        chosen_BL = np.asarray(mask_BL, dtype=bool) & (observation["maskable"] > 0)
        if not chosen_BL.any():
            # Words longer than the budget can leave a small batch without any label, and the mean
            # loss over nothing is NaN: one random token is better than a ruined run.
            free = np.flatnonzero(observation["maskable"])
            chosen_BL.ravel()[rng.permutation(free)[:1]] = True
        within = Batch.of({**observation, "maskable": chosen_BL})
        return highest(within, uniform_draws(within, rng))

    def _number(self, context: Context) -> int:
        """One number for one text, by which a learned policy may keep what it computed for it, and
        by which it draws masks that are to be the same each time: the text's own, in every order
        and every worker."""
        digest = blake2b(context.input_ids.tobytes(), digest_size=8).digest()
        number = int.from_bytes(digest[:4], "little") >> 1
        while self._texts.setdefault(number, digest) != digest:  # taken by another text
            number = (number + 1) % _NUMBERS
        return number

    def _context(self, feature: Mapping[str, Any]) -> Context:
        if not isinstance(feature, Mapping):
            raise ValueError(
                f"A feature is {_shown(feature)}; expected a mapping with text or input_ids."
            )
        if feature.get("input_ids") is not None:
            return self._given(feature)
        if "text" not in feature:
            raise ValueError(
                f"A feature has the columns {sorted(feature)}; the collator needs input_ids or "
                "text. With Trainer, set remove_unused_columns=False to keep the column text."
            )
        if not isinstance(feature["text"], str):
            raise ValueError(f"The text of a feature is {_shown(feature['text'])}, not a string.")
        return self._tokenized(feature["text"])

    def _given(self, feature: Mapping[str, Any]) -> Context:
        ids = _column(feature, "input_ids").astype(np.int64)
        size = max(self._size, len(self.tokenizer))
        if unknown := ids[(ids < 0) | (ids >= size)].tolist():
            raise ValueError(
                f"input_ids of a feature holds {unknown[0]}; the tokenizer's ids go from 0 to "
                f"{size - 1}."
            )
        real, special = np.ones(len(ids), bool), np.isin(ids, self._marks)
        if feature.get("attention_mask") is not None:
            real = _column(feature, "attention_mask", len(ids)).astype(bool)
        if feature.get("special_tokens_mask") is not None:
            special |= _column(feature, "special_tokens_mask", len(ids)).astype(bool)
        if feature.get("word_ids") is not None:
            words = _column(feature, "word_ids", len(ids)).astype(np.int32)
        else:
            words = self._words.guess(ids, special | ~real)
        kept = np.flatnonzero(real)[: self.max_length]
        maskable = ~special[kept] & (words[kept] >= 0)
        return Context(ids[kept].astype(np.int32), words[kept], maskable)

    def _tokenized(self, text: str) -> Context:
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_length)
        ids = np.asarray(encoded["input_ids"], np.int32)
        (words,) = self._words.of(encoded.encodings)
        return Context(ids, words, ~np.isin(ids, self._marks) & (words >= 0))


def _check(tokenizer: PreTrainedTokenizerBase, budget: float, corruption: str) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, so it does not know its words; "
            "load it with AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    for part in ("mask", "pad"):
        if getattr(tokenizer, f"{part}_token_id") is None:
            raise ValueError(
                f"The tokenizer has no {part} token; add one with "
                f"tokenizer.add_special_tokens({{'{part}_token': '<{part}>'}})."
            )
    check_budget(budget)
    if corruption not in {"bert", "mask"}:
        raise ValueError(f"There is no corruption rule {corruption!r}; expected 'bert' or 'mask'.")


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}.")


def _column(feature: Mapping[str, Any], name: str, length: int | None = None) -> np.ndarray:
    """The whole numbers of a column, (length,); -1 for None.

    Raises:
        ValueError: if it holds anything else, or another number of them.
    """
    try:
        array = np.asarray(feature[name])
    except ValueError:  # rows of different lengths
        array = np.empty((0, 0))
    if array.dtype == object and array.ndim == 1:
        array = np.asarray([-1 if value is None else value for value in array])
    if array.ndim != 1 or (array.dtype.kind not in "iub" and array.size):
        raise ValueError(
            f"{name} of a feature is {_shown(feature[name])}; expected one whole number a token."
        )
    if length not in (None, len(array)):
        raise ValueError(
            f"{name} of a feature has {len(array)} entries for {length} tokens; give one for each."
        )
    return array


def _shown(value: Any) -> str:
    """A value, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
