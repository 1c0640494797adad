"""Register a masking environment of your own (corpus, task, reward) and train an agent on it.

python examples/register_custom_env.py distilbert 50
"""

import sys

import gymnasium

from agents.actor_critic import MaskingActorCritic
from envs.adaptation.executor import SerialExecutor
from envs.adaptation.jobs import AdaptationSettings
from envs.adaptation.scorer import Scorer
from envs.masking_env import MaskingEnv
from envs.models.loading import load_language_model
from envs.models.states import TokenStates
from envs.tasks.classification import Classification
from envs.text.examples import TextExample
from envs.text_world import TextWorld

KINDS = {"metal": ("iron", "copper", "zinc", "silver"), "fruit": ("pear", "plum", "fig", "cherry")}
WORDS = [(word, kind) for kind, words in KINDS.items() for word in words]
CORPUS = [f"Miners dig {m}; {f} trees grow." for m in KINDS["metal"] for f in KINDS["fruit"]]
ASKED = ("Who sells {} here?", "I saw {} today.", "A box of {} came.", "No {} was left.")
EXAMPLES = [TextExample(a.format(w), a.format(w), kind) for w, kind in WORDS for a in ASKED]


def thrifty(scores, references):
    """Nats gained over random, less a price for every token that was trained on."""
    gain = scores["random"].metrics["nll"] - scores["agent"].metrics["nll"]
    return gain - 1e-5 * scores["agent"].cost["pretrain_tokens"]


def make_env(model, **options):
    lm = load_language_model(model)
    task = Classification(lm.tokenizer, list(KINDS))
    sizes = {"window": 32, "contexts_per_episode": 8, "held_out": 0.4}
    world = TextWorld(task, EXAMPLES, lm.tokenizer, documents=CORPUS, **sizes)
    settings = AdaptationSettings(pretrain_lr=1e-4, finetune_lr=1e-4, finetune_epochs=5)
    executor = SerialExecutor(Scorer(lm, task))
    return MaskingEnv(world, executor, settings=settings, reward=thrifty, **options)


gymnasium.register("my/MaskMarket-v0", entry_point=make_env)


def main(model="distilbert", episodes=50):
    env = gymnasium.make("my/MaskMarket-v0", model=model, budget=0.15, render_mode="ansi")
    states = TokenStates(load_language_model(model))  # of a model that no score job trains
    agent = MaskingActorCritic(env, token_features=states, seed=0, verbose=1)
    agent.attach_opponent()
    agent.learn(int(episodes) * env.unwrapped.contexts_per_episode, log_interval=1)

    observation, _ = env.reset(seed=1)
    env.step(agent.predict(observation, deterministic=True)[0])
    print(env.render())


if __name__ == "__main__":
    main(*sys.argv[1:])
