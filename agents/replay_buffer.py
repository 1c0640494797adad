"""Experience replay of masks: compact, exact to resume, without a loop over the memory.

A context is stored once, however often it is played. A *play* is one context masked once: a row
number, the mask packed to bits, and for each masked token the log-probability with which it was
drawn, its credit, how surprising that was and how often the token recurs in its context. At 512
tokens and a budget of 25 that is 419 bytes, against 10,780 for a transition of
Stable-Baselines3's ``DictReplayBuffer``.

Shapes: B plays added, N sampled, L tokens, K most masked tokens of a play.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.contexts import Contexts
from agents.features import occurrences


@dataclass(frozen=True, eq=False)
class ReplayBatch:
    """What one update learns from.

    Attributes:
        contexts: N contexts.
        player: whose tokens; 0 the agent, 1 its learning opponent.
        entries: where in the memory, (N,); for ``update_surprise``.
        positions: the masked token of each context, (N,); ``None`` if whole contexts were drawn.
        log_probs: natural log of the probability it was drawn with, float32 (N,).
        credits: what it earned, float32 (N,).
    """

    contexts: Contexts
    player: int = 0
    entries: np.ndarray | None = None
    positions: np.ndarray | None = None
    log_probs: np.ndarray | None = None
    credits: np.ndarray | None = None


class MaskReplayBuffer:
    """A ring of plays over a table of contexts.

    Attributes:
        forgets: whether plays have had to make room for others.

    Args:
        capacity: masked tokens with credit that are remembered, or as many plays, if that is
            fewer; the oldest plays go first.
        length: L, tokens of a padded context.
        contexts: different contexts remembered; with a context go all its plays.
        learners: how many share the capacity, each with a right to its part.
        priority: sample tokens by softmax of surprise over the root of their repeats.
        normalise: give credits in units of their root mean square.
        seed: of the generator that it owns.
    """

    def __init__(
        self,
        capacity: int,
        length: int,
        *,
        contexts: int = 5_000,
        learners: int = 1,
        priority: bool = False,
        normalise: bool = False,
        seed: int = 0,
    ) -> None:
        self.capacity, self.length, self.learners = capacity, length, learners
        self.forgets = False
        self.table_size, self.priority, self.normalise = contexts, priority, normalise
        self.rng = np.random.default_rng([seed, 3])
        self._rows: dict[int, int] = {}
        self._next_row = self._next_play = 0
        self._table = self._empty_table(0)
        self._plays = self._empty_plays(0, 0)

    def _empty_table(self, size: int) -> dict[str, np.ndarray]:
        packed = (self.length + 7) // 8
        return {
            "ids": np.full(size, -1, dtype=np.int64),
            "input_ids": np.zeros((size, self.length), dtype=np.int32),
            "word_ids": np.full((size, self.length), -1, dtype=np.int32),
            "real": np.zeros((size, packed), dtype=np.uint8),
            "maskable": np.zeros((size, packed), dtype=np.uint8),
            "budget": np.zeros(size, dtype=np.int32),
        }

    def _empty_plays(self, size: int, tokens: int) -> dict[str, np.ndarray]:
        return {
            "row": np.full(size, -1, dtype=np.int32),
            "player": np.zeros(size, dtype=np.int8),
            "masks": np.zeros((size, (self.length + 7) // 8), dtype=np.uint8),
            "log_prob": np.zeros((size, tokens), dtype=np.float32),
            "credit": np.full((size, tokens), np.nan, dtype=np.float32),
            "surprise": np.zeros((size, tokens), dtype=np.float32),
            "repeats": np.ones((size, tokens), dtype=np.uint16),
        }

    def tokens(self, player: int = 0) -> int:
        """Masked tokens with credit that can be sampled."""
        return int(np.isfinite(self._plays["credit"][self._of(player)]).sum())

    def _of(self, player: int) -> np.ndarray:
        return (self._plays["row"] >= 0) & (self._plays["player"] == player)

    def add(
        self,
        contexts: Contexts,
        masks_BL: np.ndarray,
        log_probs_BL: np.ndarray,
        credits_BL: np.ndarray,
        values_B: np.ndarray,
        player: int = 0,
    ) -> None:
        """Remember one masking of each context.

        Args:
            contexts: B contexts.
            masks_BL: what was masked.
            log_probs_BL: log-probability of drawing each token first.
            credits_BL: what each token earned; NaN for none.
            values_B: what was expected of each context, the base of surprise.
            player: 0 the agent, 1 its learning opponent.
        """
        masks_BL = masks_BL.astype(bool)
        self._reserve(len(contexts), int(masks_BL.sum(axis=1).max(initial=0)))
        rows_B = self._remember(contexts)
        size, tokens = self._plays["credit"].shape
        at_B = (self._next_play + np.arange(len(contexts))) % size
        self.forgets |= bool((self._plays["row"][at_B] >= 0).any())
        self._next_play = (self._next_play + len(contexts)) % size
        # Masked positions first, in their order: column k holds the k-th masked token.
        order_BK = np.argsort(~masks_BL, axis=1, kind="stable")[:, :tokens]
        chosen_BK = np.take_along_axis(masks_BL, order_BK, axis=1)

        def gather(values_BL: np.ndarray, rest: float) -> np.ndarray:
            return np.where(chosen_BK, np.take_along_axis(values_BL, order_BK, axis=1), rest)

        credit_BK = gather(credits_BL, np.nan)
        repeats_BL = occurrences(contexts.input_ids, contexts.attention_mask)
        plays = self._plays
        plays["row"][at_B], plays["player"][at_B] = rows_B, player
        plays["masks"][at_B] = np.packbits(masks_BL, axis=1)
        plays["log_prob"][at_B] = gather(log_probs_BL, 0.0)
        plays["credit"][at_B] = credit_BK
        away_BK = np.abs(credit_BK / self.credit_scale() - values_B[:, None])
        plays["surprise"][at_B] = np.nan_to_num(away_BK)
        plays["repeats"][at_B] = np.maximum(gather(repeats_BL, 1), 1)

    def _reserve(self, plays: int, tokens: int) -> None:
        """Make room: the sizes follow from the first episode, and grow if a later one is wider, or
        if masks are too uneven for the plays to hold the tokens that they should."""
        size, width = self._plays["row"].size, self._plays["credit"].shape[1]
        if size == 0:
            width = max(tokens, 1)
            self._plays = self._empty_plays(max(self.capacity // width, plays), width)
            self.table_size = max(self.table_size, 2 * plays)
            self._table = self._empty_table(self.table_size)
            return
        if plays > min(size, self.table_size):
            raise ValueError(
                f"{plays} contexts were played at once, the replay holds {size} plays of "
                f"{self.table_size} contexts; raise replay_capacity and replay_contexts."
            )
        if tokens > width:
            wider = self._empty_plays(size, tokens)
            for name, array in self._plays.items():
                if array.ndim == 2 and name != "masks":
                    wider[name][:, :width] = array
                else:
                    wider[name] = array
            self._plays = wider
        if size < self.capacity and self._too_few_without(plays):
            more = self._empty_plays(min(plays, self.capacity - size), max(tokens, width))
            self._plays = {
                name: np.concatenate([np.roll(array, -self._next_play, axis=0), more[name]])
                for name, array in self._plays.items()
            }
            self._next_play = size

    def _too_few_without(self, plays: int) -> bool:
        """Whether a learner would be left with less than its part, were so many plays replaced."""
        credit_PK, player_P = self._plays["credit"], self._plays["player"]
        tokens_P = np.isfinite(credit_PK).sum(axis=1) * (self._plays["row"] >= 0)
        next_B = (self._next_play + np.arange(plays)) % len(tokens_P)
        for player in range(self.learners):
            lost = tokens_P[next_B][player_P[next_B] == player].sum()
            if lost and tokens_P[player_P == player].sum() - lost < self.capacity // self.learners:
                return True
        return False

    def _remember(self, contexts: Contexts) -> np.ndarray:
        """Row of each context in the table; new ones replace the oldest."""
        ids = contexts.context_ids.tolist()
        for key, ids_L in zip(ids, contexts.input_ids, strict=True):
            # Two texts may share an id that is a hash: the newer one takes its place.
            if key in self._rows and (self._table["input_ids"][self._rows[key]] != ids_L).any():
                row = self._rows.pop(key)
                self._table["ids"][row] = -1
                self._forget(np.array([row]))
        # Contexts of this very episode must not push one another out: drop old rows first.
        new = {key: i for i, key in enumerate(ids) if key not in self._rows}
        kept = {self._rows[key] for key in ids if key in self._rows}
        free: list[int] = []
        while len(free) < len(new):
            if self._next_row not in kept:
                free.append(self._next_row)
            self._next_row = (self._next_row + 1) % self.table_size
        rows, first = np.array(free, dtype=np.int64), np.array(list(new.values()), dtype=np.int64)
        for old, row in zip(self._table["ids"][rows].tolist(), rows.tolist(), strict=True):
            if self._rows.get(old) == row:
                del self._rows[old]
                self.forgets = True
        self._forget(rows)
        self._rows.update(zip(new, free, strict=True))
        table = self._table
        table["ids"][rows] = contexts.context_ids[first]
        table["input_ids"][rows] = contexts.input_ids[first]
        table["word_ids"][rows] = contexts.word_ids[first]
        table["real"][rows] = np.packbits(contexts.attention_mask[first], axis=1)
        table["maskable"][rows] = np.packbits(contexts.maskable[first], axis=1)
        table["budget"][rows] = contexts.budget[first]
        return np.array([self._rows[key] for key in ids])

    def _forget(self, rows: np.ndarray) -> None:
        """Drop the plays of some rows of the table."""
        self._plays["row"][np.isin(self._plays["row"], rows)] = -1

    def sample_contexts(self, batch_size: int) -> ReplayBatch:
        """Contexts of the agent's plays, drawn evenly."""
        plays = self.rng.choice(np.flatnonzero(self._of(0)), batch_size)
        return ReplayBatch(self._contexts(self._plays["row"][plays]))

    def sample_tokens(self, batch_size: int, player: int = 0) -> ReplayBatch:
        """Masked tokens with credit, drawn evenly or by priority, and their contexts."""
        credit_PK = self._plays["credit"]
        usable = np.flatnonzero(np.isfinite(credit_PK) & self._of(player)[:, None])
        weight = None
        if self.priority:
            surprise = self._plays["surprise"].reshape(-1)[usable].astype(np.float64)
            repeats = self._plays["repeats"].reshape(-1)[usable]
            weight = np.exp(surprise - surprise.max()) / np.sqrt(repeats)
            weight /= weight.sum()
        entries = self.rng.choice(usable, batch_size, p=weight)
        plays, number = np.divmod(entries, credit_PK.shape[1])
        masks_NL = self._unpack(self._plays["masks"][plays])
        positions = ((masks_NL.cumsum(axis=1) == number[:, None] + 1) & masks_NL).argmax(axis=1)
        return ReplayBatch(
            self._contexts(self._plays["row"][plays]),
            player,
            entries,
            positions,
            self._plays["log_prob"].reshape(-1)[entries],
            credit_PK.reshape(-1)[entries] / np.float32(self.credit_scale()),
        )

    def update_surprise(self, entries: np.ndarray, surprise: np.ndarray) -> None:
        """Set how far the credit of some tokens was from what is expected now."""
        self._plays["surprise"].reshape(-1)[entries] = surprise

    def credit_scale(self) -> float:
        """What credits are divided by: 1 unless they are normalised."""
        credits = self._plays["credit"]
        known = credits[np.isfinite(credits)] if self.normalise else credits[:0]
        return float(np.sqrt(np.mean(known**2))) or 1.0 if known.size else 1.0

    def _unpack(self, packed: np.ndarray) -> np.ndarray:
        return np.unpackbits(packed, axis=1, count=self.length).astype(bool)

    def _contexts(self, rows: np.ndarray) -> Contexts:
        table = self._table
        return Contexts(
            table["input_ids"][rows],
            self._unpack(table["real"][rows]),
            table["word_ids"][rows],
            self._unpack(table["maskable"][rows]),
            table["ids"][rows],
            table["budget"][rows].astype(np.int64),
        ).trimmed()

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The memory as arrays, and the rest as JSON values."""
        arrays = {f"table.{name}": array for name, array in self._table.items()}
        arrays |= {f"plays.{name}": array for name, array in self._plays.items()}
        return arrays, {
            "pos": self._next_play,
            "next_row": self._next_row,
            "rng": self.rng.bit_generator.state,
        }

    def load_state(self, arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any]) -> None:
        """Take back what ``state`` gave."""
        # An older file may hold a field in another type; astype copies.
        table, plays = self._empty_table(0), self._empty_plays(0, 0)
        self._table = {n: arrays[f"table.{n}"].astype(a.dtype) for n, a in table.items()}
        self._plays = {n: arrays[f"plays.{n}"].astype(a.dtype) for n, a in plays.items()}
        if len(self._table["ids"]):
            self.table_size = len(self._table["ids"])
        pairs = enumerate(self._table["ids"].tolist())
        self._rows = {key: row for row, key in pairs if key != -1}
        self._next_play, self._next_row = int(rest["pos"]), int(rest["next_row"])
        self.rng.bit_generator.state = dict(rest["rng"])
