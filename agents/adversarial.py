"""Adversarial masking: a module that learns to mask what the language model cannot yet predict.

After the dynamic masking module of the Adversarial Mask Transformer (Lio, Li and Chien, ICASSP
2022): Transformer layers and a scoring head over token embeddings of their own give each maskable
token a probability p; tokens are masked by it; the language model lowers the loss L of predicting
them, the module raises it. Choosing has no gradient, so the module follows the score function:

    minimise  - sum over masked i of (L_i - b) / s * log p_i  /  n   +   floor term.

n tokens are masked; b and s are the running mean and deviation of the losses: without them every
masked token would be pushed up, whatever its loss. The floor term holds the entropy of p above a
share of its maximum: left alone, the module would collapse onto noise (names, typos), which no
model ever predicts. The k tokens are the k of highest score (plus Gumbel noise while learning), not
those whose *index* in the sorted order is small, which is as good as random.

Shapes: B contexts, L tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents import budgeted, files
from agents.adversarial_module import (
    AdversarySettings,
    RunningLoss,
    ScoringModule,
    adversarial_loss,
)
from agents.contexts import Contexts

ABOUT, TENSORS = "adversary.json", "adversary.safetensors"
REQUIRED = ("format", "vocab_size", "settings", "generator")
"""What a file has that any version wrote."""


class AdversarialMasking:
    """A masking strategy that learns online, against the language model it masks for.

    ``predict`` masks within the budget: a draw by the module's scores, or the highest. After the
    language model has seen the batch, ``feedback`` takes its loss at each masked token and makes
    one step.

    Args:
        vocab_size: V, of the tokenizer.
        settings: of the module and its learning.
        seed: of its weights and its draws.
        device: where the module lives.
        vocabulary: hash of the tokenizer's tokens by their ids, where it is known: it is saved, and
            keeps the module from being shown ids that are other words.
    """

    def __init__(
        self,
        vocab_size: int,
        settings: AdversarySettings | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        vocabulary: str | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.vocabulary = vocabulary
        self.settings = settings or AdversarySettings()
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that seeds GPUs too, which are not forked here.
            torch.default_generator.manual_seed(seed)
            self.module = ScoringModule(vocab_size, self.settings).to(device)
        self.losses = RunningLoss(self.settings.memory).to(device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=self.settings.learning_rate)
        self.generator = np.random.default_rng(seed)

    def seed(self, seed: int) -> None:
        """Restart the draws of ``predict``; what was learned stays."""
        self.generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Masks, int8, of the shape of ``observation["input_ids"]``; ``state`` is handed back."""
        contexts = Contexts.of(observation)
        with torch.no_grad():
            scores_BL = self._scores(contexts)
        maskable_BL = torch.as_tensor(contexts.maskable, device=self.device)
        budget_B = torch.as_tensor(contexts.budget, device=self.device)
        if deterministic:
            mask_BL = budgeted.top_k(scores_BL, maskable_BL, budget_B)
        else:
            noise_BL = self.generator.gumbel(size=contexts.input_ids.shape)
            mask_BL = budgeted.sample(scores_BL, maskable_BL, budget_B, noise_BL)
        mask = mask_BL.cpu().numpy().astype(np.int8)
        return mask.reshape(np.shape(observation["input_ids"])), state

    def _scores(self, contexts: Contexts) -> Tensor:
        real_BL = torch.as_tensor(contexts.attention_mask, device=self.device)
        ids_BL = torch.as_tensor(contexts.input_ids, dtype=torch.long, device=self.device)
        if int(ids_BL.max()) >= self.vocab_size:
            raise ValueError(
                f"The masking module was made for a vocabulary of {self.vocab_size} tokens and was "
                f"shown the id {int(ids_BL.max())}; use the tokenizer that it was trained with."
            )
        return self.module(ids_BL, real_BL)

    def feedback(
        self, observation: Mapping[str, np.ndarray], mask: np.ndarray, token_losses: np.ndarray
    ) -> dict[str, float]:
        """Learn from what the language model made of a batch: one step.

        Args:
            observation: as given to ``predict``, one context or a batch.
            mask: the tokens it had to predict, of the shape of ``input_ids``.
            token_losses: its loss at each of them in nats, same shape; elsewhere ignored.

        Returns:
            ``loss`` (of the language model, mean), ``entropy`` (share of a uniform choice's).
        """
        contexts = Contexts.of(observation)
        shape = contexts.input_ids.shape
        maskable_BL = torch.as_tensor(contexts.maskable, device=self.device)
        mask_BL = torch.as_tensor(np.reshape(mask, shape).astype(bool), device=self.device)
        mask_BL &= maskable_BL
        losses_BL = torch.as_tensor(
            np.reshape(token_losses, shape), dtype=torch.float32, device=self.device
        )
        if not mask_BL.any():
            return {}
        self.losses.update(losses_BL[mask_BL])
        advantage_BL = self.losses.standardised(losses_BL)
        loss, entropy = adversarial_loss(
            self._scores(contexts), maskable_BL, mask_BL, advantage_BL, self.settings
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return {"loss": float(losses_BL[mask_BL].mean()), "entropy": float(entropy)}

    def save(self, folder: str | Path) -> None:
        """Write module, optimiser and generator: enough to mask, and to go on learning."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        arrays = files.prefixed("module", files.module_arrays(self.module))
        arrays |= files.prefixed("losses", files.module_arrays(self.losses))
        arrays |= files.prefixed("optimizer", files.optimizer_arrays(self.optimizer))
        files.write_tensors(path / TENSORS, arrays)
        about = {
            "format": files.FORMAT,
            "vocab_size": self.vocab_size,
            "vocabulary": self.vocabulary,
            "settings": asdict(self.settings),
            "generator": self.generator.bit_generator.state,
        }
        (path / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        vocabulary: str | None = None,
    ) -> AdversarialMasking:
        """Read what ``save`` wrote.

        Args:
            folder: it was saved to.
            device: where the module is to live.
            vocabulary: of the tokenizer that it is to be used with. Not looked at where either side
                does not know it.

        Raises:
            FileNotFoundError: if the folder holds no masking module.
            ValueError: if its files are damaged, or it was trained with another tokenizer.
        """
        path = Path(folder)
        about = files.read_json(path / ABOUT, REQUIRED)
        arrays = files.read_tensors(path / TENSORS)
        made_for = about.get("vocabulary")
        files.check_vocabulary(f"The masking module in {path}", made_for, vocabulary)
        try:
            made = cls(about["vocab_size"], AdversarySettings(**about["settings"]), device=device)
            files.fill_module(made.module, files.part("module", arrays))
            files.fill_module(made.losses, files.part("losses", arrays))
            files.fill_optimizer(made.optimizer, files.part("optimizer", arrays))
            made.generator.bit_generator.state = about["generator"]
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise files.mismatch(path / ABOUT, TENSORS, error) from error
        made.vocabulary = made_for or vocabulary
        return made
