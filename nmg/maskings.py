"""The maskings of a comparison by name: strategies, learned policies and their null controls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.strategies import make_strategy, strategy_key
from agents.strategies.shuffled import ShuffledPolicy
from envs.models.entropy import PredictionEntropy
from envs.models.language_model import LanguageModel
from envs.models.states import TokenStates
from envs.references import Policy
from envs.text.corpus import Context, build_corpus
from nmg.checkpoint import ADVERSARY, AGENT, checkpoints, chosen_checkpoint, read_object
from nmg.comparison import control_name
from nmg.corpora import AS_TEXT, corpus_texts
from nmg.evaluation import Greedy

if TYPE_CHECKING:
    from nmg.assembly import Setup

MEASURED = 2_000
"""Contexts on which the mask rates of a policy are measured for the shuffled control."""


class VocabularyError(ValueError):
    """A policy was made for another vocabulary than the language model's."""


def load_policy(checkpoint: Path, states: TokenStates, vocab_size: int) -> Policy:
    """The policy in a checkpoint folder.

    Raises:
        FileNotFoundError: if there is no policy.
        VocabularyError: if it was made for another vocabulary.
        ValueError: if it was trained with another tokenizer of the same size, reads other
            language-model states than these, or is damaged.
    """
    from agents.actor_critic import MaskingActorCritic
    from agents.adversarial import AdversarialMasking

    found = [path for name in (AGENT, ADVERSARY) if (path := checkpoint / name).is_file()]
    if not found:
        raise FileNotFoundError(f"There is no policy in {checkpoint}: no {AGENT}.")
    path = found[0]
    made_for = read_object(path).get("vocab_size")
    if not isinstance(made_for, int):
        raise ValueError(f"{path} is damaged (its vocab_size is {made_for!r}); put a copy back.")
    if made_for != vocab_size:
        raise VocabularyError(
            f"The policy in {checkpoint} was made for a vocabulary of {made_for} tokens, but the "
            f"language model {states.language_model.name!r} has {vocab_size}; give the model that "
            "it was trained with by --model."
        )
    if path.name == ADVERSARY:
        return AdversarialMasking.load(checkpoint, vocabulary=states.vocabulary)
    return MaskingActorCritic.load(checkpoint, token_features=states, device="cpu").policy


def untrained_policy(run: Path, states: TokenStates, vocab_size: int) -> Policy:
    """The policy as it was before training: checkpoint 0 of its run.

    It masks by drawing: its scores are all alike, so its "best" tokens would be the leftmost.
    """
    if (chosen_checkpoint(run) / ADVERSARY).is_file():
        from agents.adversarial import AdversarialMasking

        return AdversarialMasking(vocab_size)
    folder = run.parent.parent if run.parent.name == "checkpoints" else run
    first = [path for path in checkpoints(folder) if int(path.name) == 0]
    if not first:
        raise FileNotFoundError(
            f"{folder} has no checkpoint 000000 of the untrained policy; use --no-controls."
        )
    return load_policy(first[0], states, vocab_size)


def policy_name(run: Path, taken: Any) -> str:
    """What the table calls a policy: its run's name, numbered if there are two of it."""
    run = Path(os.path.abspath(run))  # `.` has no name
    folder = run.parent.parent if run.parent.name == "checkpoints" else run
    name = folder.name if folder == run else f"{folder.name}@{int(run.name)}"
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name} ({number})", number + 1
    return unique


def controls(
    name: str, run: Path, policy: Policy, states: TokenStates, vocab_size: int, observation: Any
) -> dict[str, Policy]:
    """The null controls of a learned policy.

    Args:
        name: of the policy in the table.
        run: its run folder or checkpoint.
        policy: itself.
        states: what it sees of the language model.
        vocab_size: of the language model.
        observation: contexts, entries (B, L), to measure its mask rates on.
    """
    return {
        control_name(name, "untrained"): untrained_policy(run, states, vocab_size),
        control_name(name, "shuffled"): ShuffledPolicy(Greedy(policy), observation),
    }


def strategy(name: str, on: Setup, contexts: Sequence[Context]) -> Policy | None:
    """A fixed strategy by name; ``None`` for the strategy ``none``.

    Args:
        name: of the strategy.
        on: what it is played on.
        contexts: in which it counts.

    Raises:
        ValueError: if there is no such strategy, or it needs what is not at hand here.
    """
    if name == "none":
        return None
    return make_strategy(
        name,
        tokenizer=on.world.tokenizer,
        contexts=contexts,
        texts=on.texts or None,
        **of_model(name, on.states.language_model, on.reference, on.world.max_length),
    )


def of_model(name: str, lm: Any, reference: str | Path | None, window: int) -> dict[str, Any]:
    """What a strategy that asks a language model is made with, beside what all are.

    Args:
        name: of the strategy.
        lm: the model.
        reference: a file of general text, for ``difference``.
        window: content tokens of its contexts.

    Raises:
        ValueError: if there is no such strategy, or no file for ``difference``.
        FileNotFoundError: if that file is not there.
    """
    key = strategy_key(name)
    if key == "entropy" and isinstance(lm, LanguageModel):
        return {"entropy": PredictionEntropy(lm)}
    if key != "difference":
        return {}
    if reference is None:
        raise ValueError(
            "The strategy 'difference' masks what sets the domain apart from general text; give a "
            "file of that by --reference."
        )
    texts = corpus_texts([Path(reference)], AS_TEXT)
    return {
        "embeddings": lm.embeddings(np.arange(len(lm.tokenizer))).detach().cpu().numpy(),
        "reference_contexts": build_corpus(texts, lm.tokenizer, window).contexts,
    }


def measured(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """At most `MEASURED` of the contexts, evenly spaced."""
    # An even step would leave ids of one parity alone, and the shuffled control cross-fits by it.
    step = (1 + (len(observation["input_ids"]) - 1) // MEASURED) | 1
    return {name: values[::step] for name, values in observation.items()}
