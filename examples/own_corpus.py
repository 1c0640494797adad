"""Does it matter which words are masked, on your corpus and your few labels? Look before you train.

    python examples/own_corpus.py corpus.txt labelled.csv --model distilbert --episodes 5

corpus.txt has the unlabelled domain text; labelled.csv has the columns text and label. A tenth of
the labelled texts is held out and scored. Every strategy plays the same episodes with the same
seeds, so the differences to random are paired. To learn a policy on the same files:
nmg train --task classification --dataset labelled.csv --corpus corpus.txt --model distilbert
"""

import argparse
import sys

import numpy as np

from agents.strategies import make_strategy
from envs.building import make_classification_env
from envs.text.readers import read_documents


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="unlabelled text of the domain")
    parser.add_argument("labelled", help="csv or jsonl with text and label")
    parser.add_argument("--model", default="distilbert", help="name, hub id or folder")
    parser.add_argument("--contexts", type=int, default=50, help="contexts of an episode")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=["idf", "whole_word", "common"])
    options = parser.parse_args(arguments)

    env = make_classification_env(
        options.labelled,
        options.model,
        documents=read_documents(options.corpus),
        contexts_per_episode=options.contexts,
        budget=0.15,
        references={"random": "random", "none": "none"},
        reward="nll_gain",
        render_mode="ansi",
    )
    corpus = env.world.corpus
    for name in options.strategies:
        strategy = make_strategy(name, tokenizer=corpus.tokenizer, contexts=corpus.contexts)
        gains, accuracies = [], []
        for episode in range(options.episodes):
            env.reset(seed=0, options={"episode": episode})
            strategy.seed(episode)
            masks, _ = strategy.predict(env.observe_episode())
            _, gain, _, _, info = env.step_episode(masks)
            gains.append(gain)
            accuracies.append([score["accuracy"] for score in info["scores"].values()])
        ours, random, none = np.mean(accuracies, axis=0)
        print(f"\n{name}: {env.render()}")
        print(f"accuracy {ours:.1f} (random {random:.1f}, no further pre-training {none:.1f})")
        spread = f" +- {np.std(gains, ddof=1):.3f}" if len(gains) > 1 else ""
        print(f"gain over random {np.mean(gains):+.3f}{spread} nats, {len(gains)} episodes")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"own_corpus.py: {error}")
