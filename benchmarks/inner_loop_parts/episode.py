"""What an episode costs beside its three score jobs: masks of player and opponent, credit, replay.

Both sides do what the original's training script asks for: two learners with a policy and a state
value, masks drawn from the states of the language model as it is in this episode, ten updates each
from 64 replayed tokens, the memory just large enough to begin (2,000 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from agents.actor_critic import MaskingActorCritic
from agents.settings import AgentSettings
from envs.adaptation.jobs import Score, ScoreJob
from envs.masking_env import MaskingEnv
from envs.models.loading import load_language_model
from envs.models.runtime import Precision, tune_runtime
from envs.models.states import TokenStates
from envs.text.corpus import Context
from envs.world import Deal
from inner_loop_parts.clock import Clock
from inner_loop_parts.plain import Plain
from inner_loop_parts.workload import BUDGET, WINDOW, Workload

MASKING, LEARNING = "masking", "learning"
LEARNERS, UPDATES, BATCH = 2, 10, 64

Seconds = tuple[float, float]
"""Wall, processor."""


@dataclass(eq=False)
class _Entry:
    """One masked token in the original's memory."""

    state: int
    position: int
    log_prob: Tensor
    value: Tensor
    reward: float
    times: int


class _Learner(nn.Module):
    """The original's policy and state value: one attention block, and two small networks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 1))
        self.worth = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 1))
        self.memory: list[_Entry] = []
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-4, foreach=False)

    def log_probs(self, states_BLD: Tensor, real_BL: Tensor) -> Tensor:
        """Of masking each token first, (B, L)."""
        attended, _ = self.attention(
            states_BLD, states_BLD, states_BLD, key_padding_mask=~real_BL, need_weights=False
        )
        scores_BL = self.score(self.norm(attended + states_BLD)).squeeze(-1)
        return scores_BL.masked_fill(~real_BL, -math.inf).log_softmax(-1)

    def value(self, states_BLD: Tensor) -> Tensor:
        return self.worth(states_BLD.mean(1)).squeeze(-1)


class PlainAgent(Plain):
    """The original's way: a context at a time, padded, for each learner anew; dense states in
    memory, looked through entry by entry; a state for every replayed token."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.workload, self.width = workload, workload.padded[0]
        self.encoder = self._load(AutoModel, str(self.folder)).eval()
        config = self.encoder.config
        torch.manual_seed(0)
        self.learners = [
            _Learner(config.hidden_size, config.num_attention_heads).to(device)
            for _ in range(LEARNERS)
        ]
        self.rng = np.random.default_rng(0)
        self.states: list[tuple[Tensor, Tensor]] = []
        for context in workload.earlier:
            state = self._state(context)
            for learner in self.learners:
                self._mask(learner, context, state)
        self.whole = len(workload.job.contexts) * LEARNERS, UPDATES * LEARNERS

    def __call__(self, steps: int) -> dict[str, Seconds]:
        """Seconds of masking and of learning, scaled from a few contexts and updates."""
        contexts = self.workload.job.contexts[: steps + 1]
        clock = Clock(self.device)
        for context in contexts:
            self._mask(self.learners[0], context, self._state(context))
            clock.note(MASKING)
        for _ in range(steps + 1):
            self._update(self.learners[0])
            clock.note(LEARNING)
        found = {}
        for stage, count in zip((MASKING, LEARNING), self.whole, strict=True):
            kept = [step for step in clock.steps if step.stage == stage][1:]
            factor = count / len(kept)
            wall, cpu = sum(s.wall for s in kept), sum(s.cpu for s in kept)
            found[stage] = factor * wall, factor * cpu
        return found

    @torch.no_grad()
    def _state(self, context: Context) -> tuple[Tensor, Tensor]:
        ids_1L = self._padded([context.input_ids], self.width, self.tokenizer.pad_token_id)
        real_1L = self._padded([np.ones(len(context))], self.width, 0)
        output = self.encoder(input_ids=ids_1L, attention_mask=real_1L)
        return output.last_hidden_state, real_1L.bool()

    @torch.no_grad()
    def _mask(self, learner: _Learner, context: Context, state: tuple[Tensor, Tensor]) -> None:
        log_probs_L = learner.log_probs(*state)[0]
        count = max(1, int(BUDGET * len(context)))
        chosen = torch.multinomial(log_probs_L.exp(), count)
        value = learner.value(state[0])[0]
        self.states.append(state)
        ids = context.input_ids.tolist()
        for position in chosen.tolist():
            reward = float(self.rng.choice((-1, 0, 1)))
            times = ids.count(ids[position])
            entry = _Entry(
                len(self.states) - 1, position, log_probs_L[position], value, reward, times
            )
            learner.memory.append(entry)

    def _update(self, learner: _Learner) -> None:
        entries = self._sample(learner.memory)
        states_BLD = torch.cat([self.states[entry.state][0] for entry in entries])
        real_BL = torch.cat([self.states[entry.state][1] for entry in entries])
        log_probs_BL = learner.log_probs(states_BLD, real_BL)
        at_B1 = torch.tensor([[entry.position] for entry in entries], device=self.device)
        reward_B = torch.tensor([entry.reward for entry in entries], device=self.device)
        behaviour_B = torch.stack([entry.log_prob for entry in entries])
        value_B = learner.value(states_BLD)
        ratio_B = (log_probs_BL.gather(1, at_B1).squeeze(1) - behaviour_B).exp()
        advantage_B = (reward_B - value_B).detach()
        known_BL = log_probs_BL.masked_fill(~real_BL, 0.0)
        entropy_B = -(known_BL * known_BL.exp() * real_BL).sum(1)
        loss = -(ratio_B * advantage_B).mean() + 0.25 * F.mse_loss(value_B, reward_B)
        learner.optimizer.zero_grad()
        (loss - 0.01 * entropy_B.mean()).backward()
        learner.optimizer.step()

    def _sample(self, memory: Sequence[_Entry]) -> list[_Entry]:
        surprise = np.array([abs(entry.reward - float(entry.value)) for entry in memory])
        share = np.exp(surprise) / np.sqrt([entry.times for entry in memory])
        count = min(BATCH, len(memory))
        rows = self.rng.choice(len(memory), count, replace=False, p=share / share.sum())
        return [memory[row] for row in rows]


class OurAgent:
    """This project's agent with the paper's settings, in the environment, its scores at once."""

    def __init__(self, workload: Workload, device: str, precision: Precision) -> None:
        tune_runtime(threads=1)
        self.device, self.episode = device, len(workload.job.contexts)
        lm = load_language_model(str(workload.folder), device=device, precision=precision)
        self.provider = TokenStates(lm)
        world = _Pages(workload, lm.tokenizer)
        env = MaskingEnv(world, _AtOnce(), budget=BUDGET)
        heads = int(lm.model.config.num_attention_heads)
        settings = replace(
            AgentSettings.PAPER, replay_start=1, heads=heads, updates=UPDATES, batch=BATCH
        )
        self.agent = MaskingActorCritic(
            env, settings, token_features=self.provider, seed=0, device=device
        )
        self.agent.attach_opponent()
        self.agent.gradient_steps = 0
        for _ in range(world.earlier):  # fill the memory
            self._play()
        self.agent.gradient_steps = settings.updates
        self._play()

    def __call__(self, steps: int) -> dict[str, Seconds]:
        """Seconds of a whole episode without its score jobs."""
        del steps
        self.provider.forget()  # as if the language model had changed: nothing is known
        clock = Clock(self.device)
        self._play()
        clock.note(MASKING)
        (step,) = clock.steps
        return {MASKING: (step.wall, step.cpu)}

    def _play(self) -> None:
        self.agent.learn(self.episode, reset_num_timesteps=False, log_interval=10**9)


class _Pages:
    """Deals the contexts of earlier episodes, and those of the job, in turn."""

    def __init__(self, workload: Workload, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.max_length = WINDOW + tokenizer.num_special_tokens_to_add()
        self.vocab_size = len(tokenizer)
        self.contexts = [*workload.earlier, *workload.job.contexts]
        self.episode = len(workload.job.contexts)
        self.earlier = len(workload.earlier) // self.episode

    def deal(self, seed: np.random.SeedSequence) -> Deal:
        number = seed.spawn_key[0] if seed.spawn_key else 0
        first = number % (self.earlier + 1) * self.episode
        ids = np.arange(first, first + self.episode)
        return Deal([self.contexts[i] for i in ids], ids.astype(np.int32), [], [])


class _AtOnce:
    """Scores that cost nothing and differ."""

    def submit(self, job: ScoreJob) -> Future[Score]:
        assert job.masks is not None
        value = float(sum(int(np.flatnonzero(mask).sum()) for mask in job.masks) % 97)
        future: Future[Score] = Future()
        future.set_result(Score({"nll": value}, [{"nll": value}], {}))
        return future
