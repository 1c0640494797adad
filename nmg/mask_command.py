"""``nmg mask``: show what a policy or a strategy masks in a text."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.rendering import painted, use_colour
from nmg.config import TESTBED_MODEL
from nmg.limits import COUNTING, refuse_idle_corpus, refuse_idle_reference
from nmg.options import user_path

if TYPE_CHECKING:
    from envs.text.corpus import Context, Corpus

EXAMPLES = """examples:
  nmg mask --strategy salient --model minilm --text "Ada Lovelace wrote it in 1843."
  nmg mask --strategy idf --corpus articles.txt --file article.txt
  nmg mask --policy output/squadshifts-new_wiki/minilm/a_neural --file article.txt --budget 0.15
"""


def add_parser(subparsers: Any) -> None:
    """Mount ``mask`` on the command line."""
    parser = subparsers.add_parser(
        "mask",
        help="show what a policy or strategy masks in a text",
        description="Print a text with its masked words in colour (in [brackets] where there is "
        "no colour: in a file, or with NO_COLOR set).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--policy", type=user_path, metavar="DIR", help="a run folder or a checkpoint")
    who.add_argument("--strategy", metavar="NAME", help="a fixed strategy, e.g. idf or span")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="the text itself")
    what.add_argument("--file", type=user_path, help="a text file; - for standard input")
    parser.add_argument(
        "--model",
        type=os.path.expanduser,
        help="language model (default: the policy's own, else minilm)",
    )
    parser.add_argument(
        "--reference",
        type=user_path,
        metavar="FILE",
        help="general text, from which the strategy difference sets the text apart",
    )
    parser.add_argument(
        "--corpus",
        type=user_path,
        nargs="+",
        metavar="FILE",
        help=f"text that {', '.join(COUNTING)} count in instead of the text itself",
    )
    parser.add_argument("--budget", type=float, help="share of the tokens (default: the policy's)")
    parser.add_argument("--window", type=int, default=254, help="tokens of a context")
    parser.add_argument("--seed", type=int, default=0, help="of strategies that draw")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Mask the text and print it."""
    from envs.text.corpus import build_corpus
    from nmg.checkpoint import chosen_checkpoint
    from nmg.run_folders import trained_settings

    for name, least in (("window", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"{name} is {getattr(args, name)}; it must be at least {least}.")
    refuse_idle_reference(args.reference, [args.strategy] if args.strategy else [])
    refuse_idle_corpus(args.corpus, args.strategy)
    checkpoint = chosen_checkpoint(args.policy) if args.policy else None
    trained = trained_settings(args.policy) if args.policy else {}
    name = args.model or trained.get("model", "minilm")
    texts = _texts(args)
    lm = None
    if checkpoint is not None or args.strategy in ("entropy", "difference"):
        lm = _language_model(name, trained)
        tokenizer, longest = lm.tokenizer, lm.max_length
    else:
        tokenizer = _tokenizer(name)
        longest = tokenizer.model_max_length
    window = min(args.window, longest - tokenizer.num_special_tokens_to_add())
    corpus = build_corpus(texts, tokenizer, window)
    if checkpoint is not None:
        policy = _learned(checkpoint, lm, trained)
    else:
        policy = _strategy(args, corpus, texts, lm, window)
    budget = args.budget if args.budget is not None else trained.get("budget", 0.05)
    masks = mask_corpus(corpus, policy, budget, args.seed)
    colour = use_colour(sys.stdout)
    for text, spans in zip(texts, masked_spans(corpus, masks, texts, window), strict=True):
        print(painted(text, spans, colour))
    masked, total = sum(int(mask.sum()) for mask in masks), sum(map(len, corpus))
    print(f"\n{masked} of {total} tokens masked ({100 * masked / total:.1f}%)", file=sys.stderr)
    return 0


def _language_model(name: str, trained: Mapping[str, Any]) -> Any:
    """The language model of a name, of the kind that the policy's run had."""
    from nmg.assembly import generated_setup, generation_model, text_model
    from nmg.config import DataConfig

    if _is_testbeds(name, trained):
        return generated_setup(trained.get("dataset", "testbed")).states.language_model
    if trained.get("task") == "generation":
        languages = tuple(trained.get("languages", ()))
        if trained.get("side") == "target":
            languages = languages[1:] * 2  # the texts are marked as those that it learned on
        return generation_model(DataConfig(task="generation", model=name, languages=languages))
    return text_model(DataConfig(task="classification", model=name))


def _tokenizer(name: str) -> Any:
    """All that a fixed strategy needs of a language model."""
    from envs.models.loading import load_tokenizer

    if _is_testbeds(name, {}):
        return _language_model(name, {}).tokenizer
    return load_tokenizer(name)


def _is_testbeds(name: str, trained: Mapping[str, Any]) -> bool:
    """Whether a name means the testbed's own model: a folder may be called as it is.

    Args:
        name: of a language model.
        trained: settings of the policy's run; empty without one.
    """
    if trained:
        return trained.get("task") == "testbed" and name == trained.get("model")
    return name == TESTBED_MODEL and not Path(name).is_dir()


def _learned(checkpoint: Path, lm: Any, trained: Mapping[str, Any]) -> Any:
    from agents.fragments import FragmentOf
    from envs.models.states import TokenStates
    from nmg.evaluation import Greedy
    from nmg.maskings import load_policy

    policy = Greedy(load_policy(checkpoint, TokenStates(lm), len(lm.tokenizer)))
    return FragmentOf(policy) if trained.get("task") == "generation" else policy


def _texts(args: argparse.Namespace) -> list[str]:
    from envs.text.readers import read_documents

    if args.text is None and str(args.file) != "-":
        return read_documents(args.file)
    try:
        text = sys.stdin.read() if args.text is None else args.text
        text.encode()  # bytes of an argument that are no UTF-8 come as half surrogate pairs
    except UnicodeError:
        raise ValueError("The text is not UTF-8; give it as UTF-8.") from None
    return [text]


def _strategy(
    args: argparse.Namespace, corpus: Corpus, texts: Sequence[str], lm: Any, window: int
) -> Any:
    from agents.strategies import NoMask, make_strategy
    from nmg.maskings import of_model

    if args.strategy == "none":
        return NoMask()
    return make_strategy(
        args.strategy,
        tokenizer=corpus.tokenizer,
        contexts=_counted_in(args, corpus, window),
        texts=texts,
        seed=args.seed,
        **of_model(args.strategy, lm, args.reference, window),
    )


def _counted_in(args: argparse.Namespace, corpus: Corpus, window: int) -> Sequence[Context]:
    """The contexts that a strategy counts in: of ``--corpus``, else of the text itself."""
    from envs.text.corpus import build_corpus
    from nmg.corpora import AS_TEXT, corpus_texts

    if args.corpus:
        return build_corpus(corpus_texts(args.corpus, AS_TEXT), corpus.tokenizer, window).contexts
    # The domain of `difference` may be one text: it asks the other file which words are rare.
    if len(corpus) == 1 and args.strategy in COUNTING and args.strategy != "difference":
        raise ValueError(
            f"The strategy {args.strategy!r} counts in a corpus, but the text is a single context; "
            "give other text to count in by --corpus."
        )
    return corpus.contexts


def mask_corpus(corpus: Corpus, policy: Any, budget: float, seed: int = 0) -> list[np.ndarray]:
    """Masks of all contexts, one bool array (n,) each, within the budget.

    Args:
        corpus: the contexts.
        policy: anything with ``predict``.
        budget: share of the tokens of a context.
        seed: draws what is kept of a mask over the budget.

    Raises:
        ValueError: if the budget is no share.
    """
    from envs import spaces

    spaces.check_budget(budget)
    ids = np.arange(len(corpus))
    observation = spaces.pad_contexts(corpus.contexts, ids, corpus.tokenizer, budget=budget)
    chosen_BL, _ = policy.predict(observation, deterministic=True)
    masks_BL = spaces.allowed_masks(chosen_BL, observation, np.random.default_rng(seed))
    return spaces.cut(masks_BL, corpus.contexts)


def masked_spans(
    corpus: Corpus, masks: Sequence[np.ndarray], texts: Sequence[str], window: int
) -> list[list[tuple[int, int]]]:
    """Character spans of the masked tokens of each text, neighbours joined.

    Args:
        corpus: made of these texts with this window.
        masks: of its contexts.
        texts: the documents.
        window: content tokens of a context.
    """
    spans: list[list[tuple[int, int]]] = [[] for _ in texts]
    offsets = [_offsets(text, corpus.tokenizer, window) for text in texts]
    rows = dict.fromkeys(range(len(texts)), 0)
    for context, mask in zip(corpus, masks, strict=True):
        found = offsets[context.document][rows[context.document]]
        rows[context.document] += 1
        for place in np.flatnonzero(mask):
            start, end = found[place]
            joined = spans[context.document]
            # Tokens of the bytes of one character all stand for the whole of it.
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
            elif end > start:
                joined.append((start, end))
    return spans


def _offsets(text: str, tokenizer: Any, window: int) -> list[list[tuple[int, int]]]:
    """Character offsets of the tokens of each context of a text, as `build_corpus` cuts it."""
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=window + tokenizer.num_special_tokens_to_add(),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    rows = zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    return [found for found, special in rows if not all(special)]
