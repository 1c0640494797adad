"""A sequence-to-sequence language model as the project uses it, of any architecture.

Its decoder is fed what the model itself would make of a target (shifted right, after its own start
token), so nothing here knows an architecture by name. Batches are padded to their longest
sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from envs.models.dropout import fast_dropout, use_fast_dropout
from envs.models.flat import FlatParameters
from envs.models.quirks import mend
from envs.models.runtime import Precision
from envs.models.trainable import TrainableModel
from envs.text.corpus import special_marks
from envs.text.corruption import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SENTINEL = "<extra_id_0>"
"""T5's first sentinel; it has no mask token."""


class Seq2SeqModel(TrainableModel):
    """An encoder-decoder with its tokenizer, on which languages (mBART, NLLB) are set.

    The arguments are those of :class:`TrainableModel`; the model has a sequence-to-sequence head.

    Attributes:
        start_ids: what every target begins with: the decoder's start token, and the first special
            token of a target (begin of sequence, or a language) where there is one.

    Raises:
        ValueError: if nothing says what the decoder starts from, or nothing can stand for a masked
            token.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "auto",
    ) -> None:
        super().__init__(name, model, tokenizer, device=device, precision=precision)
        self.mask_token_id = _mask_token(tokenizer, name)
        use_fast_dropout(model)
        mend(model)
        self._attention = model.config._attn_implementation
        if self.device.type == "cpu":
            # Plain matrix products: with gradients and short texts the fused kernel takes several
            # times as long.
            self.model.set_attn_implementation("eager")
        self.flat = FlatParameters(self.model)
        own = self.model.config.pad_token_id
        self._pad = int(tokenizer.pad_token_id if own is None else own)
        target = _some_target(tokenizer)
        first = target[:1][np.isin(target[:1], special_marks(tokenizer))]
        self.start_ids = (self._start(target), *first.tolist())

    def _start(self, target_ids: np.ndarray) -> int:
        try:
            return int(self.shifted(target_ids)[0])
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            asked_for = ("decoder_start_token_id", "pad_token_id")
            missing = [each for each in asked_for if getattr(self.model.config, each, None) is None]
            if not missing:
                raise
            raise ValueError(
                f"The configuration of {self.name!r} has no {' and no '.join(missing)}, from which "
                "its decoder starts; set it in config.json (BERT's kind starts from [CLS])."
            ) from error

    @property
    def vocab_size(self) -> int:
        """V, rows of the embedding matrix."""
        return len(self.model.get_input_embeddings().weight)

    @property
    def width(self) -> int:
        """D, size of the encoder's states."""
        return int(self.model.get_encoder().config.hidden_size)

    @property
    def embedding_width(self) -> int:
        """E, size of the static token embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def embeddings(self, input_ids: np.ndarray) -> Tensor:
        """Static token embeddings, float32 (..., E)."""
        ids = torch.from_numpy(np.asarray(input_ids, dtype=np.int64)).to(self.device)
        return self.model.get_input_embeddings().weight[ids].float()

    def hidden_states(self, sequences: Sequence[np.ndarray]) -> Tensor:
        """The encoder's last states of all tokens of all sequences, one after another.

        Args:
            sequences: token ids, each of shape (n,), without padding.

        Returns:
            hidden_TD, T the sum of the lengths, float32.
        """
        inputs = self.sources(sequences)
        with self.autocast():
            hidden_BLD = self.model.get_encoder()(**inputs).last_hidden_state
        real_BL = inputs["attention_mask"].bool()
        return hidden_BLD[:, : real_BL.shape[1]][real_BL].float()

    @property
    def max_length(self) -> int:
        """Longest text that encoder and decoder both take, special tokens included."""
        return min(self.max_source_length, self._positions("decoder"))

    @property
    def max_source_length(self) -> int:
        """Longest source, special tokens included; LED's decoder takes far less."""
        return min(self._positions("encoder"), int(self.tokenizer.model_max_length))

    def _positions(self, part: str) -> int:
        """Positions that the encoder, or the decoder, has; very many where nothing is said."""
        names = ("max_position_embeddings", f"max_{part}_position_embeddings")
        # Encoder and decoder of BERT's kind have a configuration each.
        configs = self.model.config, getattr(self.model.config, part, None)
        found = [getattr(config, name, None) for config in configs for name in names]
        return min((int(positions) for positions in found if positions), default=10**6)

    def save(self, folder: Path) -> None:
        """Write model (safetensors) and tokenizer, to be loaded by folder name."""
        used = self.model.config._attn_implementation
        self.model.set_attn_implementation(self._attention)
        self.model.save_pretrained(folder)
        self.model.set_attn_implementation(used)
        self.tokenizer.save_pretrained(folder)

    def shifted(self, target_ids: np.ndarray) -> np.ndarray:
        """The decoder's input for a target (m,): its token i precedes target token i, (m,)."""
        labels = torch.from_numpy(np.asarray(target_ids, dtype=np.int64))[None]
        own = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if own is not None:
            return own(labels=labels.to(self.device))[0].cpu().numpy()
        start = self.model.config.decoder_start_token_id
        return np.concatenate([[start], target_ids[:-1]]).astype(np.int64)

    def batch(self, sequences: Sequence[np.ndarray], fill: int | None = None) -> Tensor:
        """Pad ids, each (n,), to one int64 tensor (B, L); ``fill`` is the padding token else."""
        width = max(map(len, sequences))
        rows = np.full((len(sequences), width), self._pad if fill is None else fill, dtype=np.int64)
        for row, sequence in zip(rows, sequences, strict=True):
            row[: len(sequence)] = sequence
        return torch.from_numpy(rows).to(self.device)

    def sources(self, sequences: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The encoder's input: ``input_ids`` and ``attention_mask``, (B, L) each."""
        lengths = [np.ones(len(sequence)) for sequence in sequences]
        return {"input_ids": self.batch(sequences), "attention_mask": self.batch(lengths, 0)}

    def token_losses(
        self,
        inputs: Mapping[str, Any],
        decoder_ids: Sequence[np.ndarray],
        labels: Sequence[np.ndarray],
        smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of every label that is not -100, sequence by sequence, float32 (N,).

        Args:
            inputs: of the encoder, as ``sources`` gives it, or ``encoder_outputs`` in its place.
            decoder_ids: the decoder's input, each (m,). Padding comes after it, where a causal
                decoder does not look.
            labels: what it should predict at each position, each (m,).
            smoothing: share of the probability spread over the vocabulary.
        """
        labels_BM = self.batch(labels, IGNORE)
        where_BM = labels_BM != IGNORE
        with self.autocast(), self._head_at(where_BM), _fast_functional_dropout():
            logits = self.model(
                **inputs, decoder_input_ids=self.batch(decoder_ids), use_cache=False
            ).logits
        logits_NV = logits if logits.ndim == 2 else logits[where_BM]
        return nn.functional.cross_entropy(
            logits_NV.float(), labels_BM[where_BM], reduction="none", label_smoothing=smoothing
        )

    @contextmanager
    def _head_at(self, where_BM: Tensor) -> Iterator[None]:
        """Have the vocabulary projection computed at some positions only, where it can be.

        A model whose head is a module that reads states (B, M, D) then gives logits (N, V); others
        (FSMT, ProphetNet) give them everywhere.
        """

        def gather(head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            states = given[0]
            fits = states.ndim == 3 and states.shape[:2] == where_BM.shape
            return (states[where_BM],) if fits else None

        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(gather) if head is not None else None
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()

    def generate(
        self, inputs: Mapping[str, Any], *, max_new_tokens: int, beams: int = 1
    ) -> list[np.ndarray]:
        """Decode without sampling; token ids of each row, start and special tokens included."""
        prompt = {"decoder_start_token_id": self.start_ids[0]}
        if len(self.start_ids) > 1:
            prompt["forced_bos_token_id"] = self.start_ids[1]
        with self.autocast():
            rows = self.model.generate(
                **inputs,
                **prompt,
                max_new_tokens=max_new_tokens,
                max_length=None,
                num_beams=beams,
                do_sample=False,
                eos_token_id=self._end,
                pad_token_id=self._pad,
            )
        return [row.cpu().numpy().astype(np.int32) for row in rows]

    @property
    def _end(self) -> int | list[int] | None:
        return self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id


@contextmanager
def _fast_functional_dropout() -> Iterator[None]:
    """Let layers that call ``F.dropout`` (BART and its kin), not a module, have the cheap draw."""
    library = nn.functional.dropout

    def cheap(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return fast_dropout(input, p) if training and p else input

    nn.functional.dropout = cheap
    try:
        yield
    finally:
        nn.functional.dropout = library


def _mask_token(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    token = tokenizer.mask_token_id
    if token is None:
        token = tokenizer.get_vocab().get(SENTINEL)
    if token is None:
        raise ValueError(
            f"The tokenizer of {name!r} has neither a mask token nor a sentinel {SENTINEL}; add "
            "one with tokenizer.add_special_tokens({'mask_token': '<mask>'}) and resize the model."
        )
    return int(token)


def _some_target(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The ids of a target that holds more than special tokens, int64 (m,)."""
    marks = special_marks(tokenizer)
    # A tokenizer may have no letter "a", and drop it: an end alone would pass for a beginning.
    for text in ("a", *tokenizer.get_vocab()):
        target = np.asarray(tokenizer(text_target=text)["input_ids"], dtype=np.int64)
        if not np.isin(target, marks).all():
            break
    return target
