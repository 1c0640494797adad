"""Text generation (translation, summaries, dialogue): features, BLEU, ROUGE and perplexity.

BLEU is sacrebleu's, ROUGE is rouge-score's; both come with the extra ``generation``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from envs.tasks.cut_texts import CutTexts
from envs.tasks.task import content_digest, short_digest

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from envs.text.examples import GenerationExample

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


class MissingExtraError(ValueError):
    """A package of the extra ``generation`` is not installed."""


@dataclass(frozen=True, eq=False)
class PairFeature:
    """One source and one target, as the tokenizer encodes them, without padding.

    Attributes:
        source_ids: the encoder's input, int32, shape (n,).
        target_ids: what the decoder is to give, int32, shape (m,); shifting it right for the
            decoder's input is the model's business.
        example: the example it was made from, with every accepted target.
    """

    source_ids: np.ndarray
    target_ids: np.ndarray
    example: GenerationExample

    def __len__(self) -> int:
        return len(self.source_ids)

    @cached_property
    def digest(self) -> bytes:
        """Of everything that a score can depend on, all accepted targets too."""
        return content_digest(self.example, (self.source_ids, self.target_ids))

    @property
    def input_ids(self) -> np.ndarray:
        """The source, as other tasks call what goes in."""
        return self.source_ids

    @property
    def target(self) -> tuple[int, ...]:
        """The target, as other tasks call what is to come out."""
        return tuple(self.target_ids.tolist())


class Generation:
    """Source text in, target text out.

    Args:
        tokenizer: the sequence-to-sequence model's. Languages (mBART) are set on it.
        metric: ``bleu`` for translation and dialogue, ``rouge`` for summaries.
        max_source_length: longer sources are cut to this many tokens, special tokens included. A
            warning counts them, as it does for targets.
        max_target_length: the same for targets.
        prefix: written before every source ("summarize: " for T5).

    Raises:
        MissingExtraError: if the metric's package is not there; now, not after hours of training.
    """

    name = "generation"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        metric: Literal["bleu", "rouge"] = "bleu",
        max_source_length: int = 128,
        max_target_length: int = 128,
        prefix: str = "",
    ) -> None:
        if metric not in ("bleu", "rouge"):
            raise ValueError(f"metric is {metric!r}; it must be 'bleu' or 'rouge'.")
        _package("sacrebleu" if metric == "bleu" else "rouge_score.rouge_scorer")
        names = ["bleu"] if metric == "bleu" else list(ROUGE_TYPES)
        self.tokenizer = tokenizer
        self.max_source_length = max_source_length
        self.max_target_length = max_target_length
        self.prefix = prefix
        self._cut = CutTexts()
        self.headline = names[-1]
        """``bleu`` or ``rougeL``."""
        self.higher_is_better: Mapping[str, bool] = {
            **dict.fromkeys(names, True),
            "nll": False,
            "perplexity": False,
        }

    @property
    def fingerprint(self) -> str:
        """Of the metric and how much is written."""
        return short_digest(type(self).__name__, self.headline, self.max_target_length)

    def features(
        self, examples: Sequence[GenerationExample], *, training: bool
    ) -> list[PairFeature]:
        """One feature per example, in order, with the first target; a warning counts cut texts,
        once.

        Raises:
            ValueError: if an example has no target, or its source or target has no tokens.
        """
        if not examples:
            return []
        for example in examples:
            if not example.targets:
                raise ValueError(f"Example {example.id!r} has no target; leave it out.")
        texts = [self.prefix + example.source for example in examples]
        sources = self._encode(self.max_source_length, text=texts)
        targets = self._encode(
            self.max_target_length, text_target=[example.targets[0] for example in examples]
        )
        self._cut.count(sources, "sources", self.max_source_length, training=training)
        self._cut.count(targets, "targets", self.max_target_length, training=training)
        result = []
        for source, target, example in zip(
            sources["input_ids"], targets["input_ids"], examples, strict=True
        ):
            if not (source and target):
                side = "target" if source else "source"
                raise ValueError(
                    f"The {side} of example {example.id!r} has no tokens; leave it out."
                )
            source_ids, target_ids = np.array(source, np.int32), np.array(target, np.int32)
            result.append(PairFeature(source_ids, target_ids, example))
        return result

    def _encode(self, max_length: int, **texts: list[str]) -> BatchEncoding:
        return self.tokenizer(**texts, truncation=True, max_length=max_length, verbose=False)

    def decode(self, outputs: Sequence[np.ndarray]) -> list[str]:
        """Generated token ids as texts, special tokens left out."""
        texts = self.tokenizer.batch_decode(
            [output.tolist() for output in outputs], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def evaluate(
        self,
        features: Sequence[PairFeature],
        outputs: Sequence[np.ndarray],
        token_losses: Sequence[np.ndarray],
    ) -> dict[str, float]:
        """Score generated texts against every accepted target.

        Args:
            features: what was generated from.
            outputs: the generated token ids of each feature, 1-D.
            token_losses: cross-entropy in nats of each token of ``target_ids``, given the tokens
                before it, 1-D.

        Returns:
            ``bleu``, or ``rouge1``, ``rouge2`` and ``rougeL`` (0-100); ``nll``, the mean over all
            target tokens; ``perplexity``, its exponential.
        """
        hypotheses = self.decode(outputs)
        references = [feature.example.targets for feature in features]
        if self.headline == "bleu":
            scores = {"bleu": bleu(hypotheses, references)}
        else:
            scores = rouge(hypotheses, references)
        nll = float(np.concatenate(token_losses).mean())
        return {**scores, "nll": nll, "perplexity": perplexity(nll)}


def bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = "13a"
) -> float:
    """Corpus BLEU, 0-100.

    Args:
        hypotheses: detokenised texts.
        references: at least one detokenised reference for each.
        tokenize: sacrebleu's name of a tokenisation, e.g. ``13a``, ``zh``, ``char``.
    """
    _check_references(hypotheses, references)
    sacrebleu = _package("sacrebleu")
    # sacrebleu wants the first references of all, the second ones of all, ...: None where missing.
    count = max(map(len, references))
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(count)]
    # `force`: no advice about tokenised input on stderr, which is the data's business.
    return float(
        sacrebleu.corpus_bleu(list(hypotheses), streams, tokenize=tokenize, force=True).score
    )


def rouge(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], stem: bool = True
) -> dict[str, float]:
    """Mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, each with its best reference, 0-100.

    rouge-score knows the letters a-z and digits only: not for texts in other scripts.
    """
    _check_references(hypotheses, references)
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(list(ROUGE_TYPES), use_stemmer=stem)
    scores = [
        scorer.score_multi(texts, hypothesis)
        for hypothesis, texts in zip(hypotheses, references, strict=True)
    ]
    return {
        name: 100.0 * float(np.mean([score[name].fmeasure for score in scores]))
        for name in ROUGE_TYPES
    }


def perplexity(nll: float) -> float:
    """Exponential of a mean negative log-likelihood in nats; infinity where it overflows."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def _check_references(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"There are {len(hypotheses)} hypotheses for {len(references)} lists of references; "
            "give one list for each, and at least one."
        )
    for number, texts in enumerate(references):
        if isinstance(texts, str) or not any(texts):
            raise ValueError(
                f"The references of hypothesis {number} are {texts!r}; "
                "give a list with at least one text."
            )


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise MissingExtraError(
            f"This metric needs the package {package!r}: pip install 'nmg[generation]'."
        ) from error
