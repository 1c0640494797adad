"""What a token is described by: language-model states and cheap word statistics, whitened.

The states come from an injected provider, so that neither an observation nor the replay holds
them. Each kind of input (static embeddings, last-layer states, statistics) is turned into
components of mean 0 and variance 1 over the tokens of the first episode; that basis then stays,
so a weight learned on it keeps its meaning.

Shapes: B contexts, L tokens, F raw columns, D components, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from agents.contexts import Contexts
from agents.settings import AgentSettings

StateProvider = Callable[[np.ndarray, np.ndarray, np.ndarray], "np.ndarray | Tensor"]
"""``(input_ids_BL, attention_mask_BL, context_ids_B) -> float32 (B, L, F)``: static embeddings,
then last-layer states. An attribute ``embedding_width`` says where the second part starts (half of
F without it); an attribute ``width`` gives F without a trial call. No gradient flows into them."""

STATISTICS = 5
"""Log frequency, log count in the context, position, tokens of the word, inside of a word."""
TABLE_WIDTH = 32
"""Width of the random token table that stands in for a missing provider."""
FIT_TOKENS = 50_000
"""Most tokens that the basis is fitted on."""
LIMIT = 5.0
"""Components are cut here, in standard deviations: one odd token must not outweigh a mask."""


class TokenFeatures:
    """Components of tokens, (B, L, D); zeros until ``fit`` has seen an episode.

    With ``settings.components == 0`` the raw states are passed through and nothing is fitted.
    """

    def __init__(
        self, provider: StateProvider | None, settings: AgentSettings, vocab_size: int, seed: int
    ) -> None:
        self.provider = provider
        self.whitened = settings.components > 0
        self.frequency = np.zeros(vocab_size, dtype=np.int64)
        self._table: np.ndarray | None = None
        if provider is None:
            generator = np.random.default_rng([seed, 1])
            shape = (vocab_size, TABLE_WIDTH)
            self._table = generator.standard_normal(shape).astype(np.float32)
        self.groups = self._groups(settings)
        self._lay_out(settings.components)

    def _groups(self, settings: AgentSettings) -> list[tuple[str, slice]]:
        """Name and raw columns of each kind of input; statistics come after the provider's."""
        total = split = TABLE_WIDTH
        if self.provider is not None:
            total = self._provider_width()
            split = int(getattr(self.provider, "embedding_width", total // 2))
        both = [("embeddings", slice(0, split)), ("states", slice(split, total))]
        groups = [g for g in both if g[0] in settings.inputs and g[1].start < g[1].stop]
        if "statistics" in settings.inputs:
            groups.append(("statistics", slice(total, total + STATISTICS)))
        if not groups:
            raise ValueError(
                f"inputs is {settings.inputs}, but there are no such columns; add 'embeddings', "
                "give token_features, or check their embedding_width."
            )
        return groups

    def _provider_width(self) -> int:
        width = getattr(self.provider, "width", None)
        if width is not None:
            return int(width)
        assert self.provider is not None
        one = np.zeros((1, 1), dtype=np.int32)
        return int(self.provider(one, np.ones((1, 1), dtype=np.int8), np.array([-1])).shape[-1])

    def _lay_out(self, components: int) -> None:
        """Reserve the basis: one matrix from the raw columns to all components."""
        widths = [g.stop - g.start for _, g in self.groups]
        kept = [
            min(components, w) if self.whitened and name != "statistics" else w
            for (name, _), w in zip(self.groups, widths, strict=True)
        ]
        self.size = sum(kept)
        self.group_D = np.repeat(np.arange(len(kept)), kept)
        self.share_D = np.ones(self.size)
        self.covariance_DD = np.eye(self.size)
        self._mean_F = torch.zeros(sum(widths))
        self._matrix_FD = torch.zeros(sum(widths), self.size)
        self.ready = not self.whitened

    def to(self, device: torch.device) -> TokenFeatures:
        """Keep the basis on a device."""
        self._mean_F, self._matrix_FD = self._mean_F.to(device), self._matrix_FD.to(device)
        return self

    def __call__(self, contexts: Contexts) -> Tensor:
        """Components of every token, float32 (B, L, D)."""
        if not self.ready:
            shape = (*contexts.input_ids.shape, self.size)
            return torch.zeros(shape, device=self._matrix_FD.device)
        raw_BLF = self._raw(contexts)
        if not self.whitened:
            return raw_BLF
        return ((raw_BLF - self._mean_F) @ self._matrix_FD).clamp(-LIMIT, LIMIT)

    def count(self, contexts: Contexts) -> None:
        """Count the tokens of an episode into the corpus frequencies."""
        ids_T = contexts.input_ids[contexts.attention_mask]
        self.frequency += np.bincount(ids_T, minlength=len(self.frequency))

    def fit(self, contexts: Contexts) -> None:
        """Choose the basis from the maskable tokens of an episode. Does nothing a second time."""
        if self.ready or not contexts.maskable.any():
            return
        step = 1 + int(contexts.maskable.sum()) // FIT_TOKENS
        part = contexts.rows(slice(None, None, step))
        chosen_BL = torch.as_tensor(part.maskable)
        raw_TF = self._raw(part).cpu()[chosen_BL].double().numpy()
        mean_F = raw_TF.mean(axis=0)
        matrix_FD = np.zeros((raw_TF.shape[1], self.size))
        row = column = 0
        for name, columns in self.groups:
            width = columns.stop - columns.start
            block = raw_TF[:, row : row + width] - mean_F[row : row + width]
            if name == "statistics":
                matrix, share = _standardise(block)
            else:
                keep = int((self.group_D == self.group_D[column]).sum())
                matrix, share = _principal(block, keep)
            matrix_FD[row : row + width, column : column + matrix.shape[1]] = matrix
            self.share_D[column : column + matrix.shape[1]] = share
            row, column = row + width, column + matrix.shape[1]
        device = self._matrix_FD.device
        self._mean_F = torch.as_tensor(mean_F, dtype=torch.float32, device=device)
        self._matrix_FD = torch.as_tensor(matrix_FD, dtype=torch.float32, device=device)
        self.ready = True
        components_TD = self(part).cpu()[chosen_BL].double().numpy()
        self.covariance_DD = np.atleast_2d(np.cov(components_TD, rowvar=False, bias=True))

    def spread(self, weights_D: np.ndarray) -> float:
        """Standard deviation over tokens of ``weights . phi(token)``."""
        return float(np.sqrt(max(weights_D @ self.covariance_DD @ weights_D, 0.0)))

    def _raw(self, contexts: Contexts) -> Tensor:
        device = self._matrix_FD.device
        ids, real = contexts.input_ids, contexts.attention_mask
        if self._table is not None:
            states = torch.as_tensor(self._table[ids], device=device)
        else:
            assert self.provider is not None
            given = self.provider(ids, real.astype(np.int8), contexts.context_ids)
            states = torch.as_tensor(given, dtype=torch.float32, device=device).detach()
        parts = [states[..., g] for name, g in self.groups if name != "statistics"]
        if self.groups[-1][0] == "statistics":
            parts.append(torch.as_tensor(self._statistics(contexts), device=device))
        return torch.cat(parts, dim=-1)

    def _statistics(self, contexts: Contexts) -> np.ndarray:
        ids_BL, real_BL = contexts.input_ids, contexts.attention_mask
        seen = self.frequency[ids_BL] + 0.5
        frequency_BL = np.log(seen / (self.frequency.sum() + 0.5 * len(self.frequency)))
        length_B1 = np.maximum(real_BL.sum(axis=1, keepdims=True), 1)
        position_BL = np.arange(ids_BL.shape[1]) / length_B1
        repeats_BL = np.log(np.maximum(occurrences(ids_BL, real_BL), 1))
        word_BL = np.log(np.maximum(occurrences(contexts.word_ids, contexts.word_ids >= 0), 1))
        inside_BL = np.zeros(ids_BL.shape)
        inside_BL[:, 1:] = contexts.word_ids[:, 1:] == contexts.word_ids[:, :-1]
        columns = (frequency_BL, repeats_BL, position_BL, word_BL, inside_BL)
        return np.stack(columns, axis=-1).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Everything learned or counted, as arrays."""
        arrays = {
            "frequency": self.frequency,
            "mean": self._mean_F.cpu().numpy(),
            "matrix": self._matrix_FD.cpu().numpy(),
            "share": self.share_D,
            "covariance": self.covariance_DD,
            "ready": np.array([self.ready]),
        }
        return arrays if self._table is None else arrays | {"table": self._table}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state`` gave.

        Raises:
            ValueError: if it was made with states of another width.
        """
        if arrays["matrix"].shape != tuple(self._matrix_FD.shape):
            raise ValueError(
                f"The saved agent reads {arrays['matrix'].shape[0]} numbers a token, the states "
                f"given have {self._matrix_FD.shape[0]}; load it with the language model that it "
                "was trained with."
            )
        device = self._matrix_FD.device
        self.frequency = arrays["frequency"].copy()
        self._mean_F = torch.as_tensor(arrays["mean"].copy(), device=device)
        self._matrix_FD = torch.as_tensor(arrays["matrix"].copy(), device=device)
        self.share_D, self.covariance_DD = arrays["share"].copy(), arrays["covariance"].copy()
        self.ready = bool(arrays["ready"][0])
        if self._table is not None:
            self._table = arrays["table"].copy()


def occurrences(values_BL: np.ndarray, counted_BL: np.ndarray) -> np.ndarray:
    """How often each value occurs among the counted places of its row, int (B, L).

    Sorts each row once, so the cost is that of a sort and not of all pairs.
    """
    keys_BL = np.where(counted_BL, values_BL.astype(np.int64), -1)
    row_B1 = np.arange(len(keys_BL))[:, None]
    span = int(keys_BL.max(initial=0)) + 2
    _, inverse, counts = np.unique(
        (keys_BL + 1 + row_B1 * span).reshape(-1), return_inverse=True, return_counts=True
    )
    return np.where(counted_BL, counts[inverse].reshape(keys_BL.shape), 0)


def _principal(centred_TF: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Whitening matrix (F, keep) to the leading principal components, and their relative size."""
    values, vectors = np.linalg.eigh(centred_TF.T @ centred_TF / len(centred_TF))
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    used = values > 1e-6 * max(values[0], 1e-12)
    scale = np.where(used, 1 / np.sqrt(np.where(used, values, 1.0)), 0.0)
    return vectors * scale, np.where(used, values / max(values[0], 1e-12), 0.0)


def _standardise(centred_TF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal matrix to unit variance; a constant column becomes zero."""
    spread = centred_TF.std(axis=0)
    used = spread > 1e-6
    return np.diag(np.where(used, 1 / np.where(used, spread, 1.0), 0.0)), used * 1.0
