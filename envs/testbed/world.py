"""The world of the testbed: every deal is a new domain, and what is worth masking is known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from envs.tasks.classification import Classification
from envs.tasks.task import Feature
from envs.testbed.domain import Family, Vocabulary, evenly, fill_in, wrapped
from envs.testbed.settings import TestbedSettings
from envs.text.corpus import Context
from envs.text.examples import TextExample
from envs.world import Deal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAMILY_KEY = {"train": 0, "test": 1}


class TopicClassification(Classification):
    """Classification with a linear head: [CLS] already tells the topic, few steps must do."""

    def head(self, width: int) -> nn.Module:
        head = nn.Linear(width, len(self.labels))
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head


class TestbedWorld:
    """Deals domains of the testbed.

    A deal draws new keywords and their topics. Its contexts mix known and new keywords of one topic
    with words of none. Its score documents hold new keywords only, most of which no labelled
    document has: they can be told apart only by what further pre-training taught.

    Args:
        settings: what a deal is made of.
        vocabulary: the words.
        family: ``train`` or ``test``; the two share no new keyword and no deal.

    Attributes:
        informative_V: which token ids are worth masking, bool (V,). No policy sees it.
    """

    __test__ = False  # for pytest: it is no test

    def __init__(
        self, settings: TestbedSettings, vocabulary: Vocabulary, family: Family = "train"
    ) -> None:
        if family not in FAMILY_KEY:
            raise ValueError(f"The testbed family is {family!r}; it must be 'train' or 'test'.")
        self.settings = settings
        self.vocabulary = vocabulary
        self.family = family
        self.tokenizer: PreTrainedTokenizerBase = vocabulary.tokenizer()
        self.max_length = settings.words + 2
        self.vocab_size = vocabulary.size
        self.informative_V = vocabulary.informative_V
        self.labels = tuple(f"topic {number}" for number in range(vocabulary.settings.topics))
        self._words = np.asarray(self.tokenizer.convert_ids_to_tokens(list(range(vocabulary.size))))

    def deal(self, seed: np.random.SeedSequence) -> Deal:
        """A domain. Pure in ``seed`` and the family."""
        # A generator of its own: spawning from the seed would change it.
        own = np.random.SeedSequence(
            seed.entropy, spawn_key=(*seed.spawn_key, FAMILY_KEY[self.family])
        )
        rng = np.random.default_rng(own)
        words, settings = self.vocabulary, self.settings
        topics = words.settings.topics
        new = rng.permutation(words.family(words.new, self.family))[: settings.new_in_deal]
        new_TN = new.reshape(topics, -1)
        twins = self._twins(rng)
        topics_B = self._topics(rng, settings.contexts)
        texts_BL = fill_in(
            rng,
            topics_B,
            settings.words,
            [(words.known_TK, settings.known_in_document), (new_TN, settings.new_in_document)],
            lambda count: words.other(rng, count, twins),
        )
        contexts = [self._context(ids, row) for row, ids in enumerate(wrapped(texts_BL))]
        learned = round(settings.known_share * settings.task_keywords * settings.labelled)
        return Deal(
            contexts=contexts,
            context_ids=np.array([_content_id(c.input_ids) for c in contexts], dtype=np.int32),
            train=self._labelled(rng, new_TN[:, : settings.labelled_new], twins, learned),
            score=self._scored(rng, new_TN[:, settings.labelled_new :], twins),
            informative=[self.informative_V[context.input_ids] for context in contexts],
        )

    def _twins(self, rng: np.random.Generator) -> np.ndarray:
        """The distractors of a deal: as many changing ones for a new keyword as the keyword has."""
        words = self.vocabulary
        changing = words.family(words.changing, self.family)
        count = words.settings.twins * self.settings.new_in_deal
        return np.concatenate([words.steady, rng.permutation(changing)[:count]])

    def _topics(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.permutation(np.arange(count) % len(self.labels))

    def _context(self, input_ids: np.ndarray, document: int) -> Context:
        word_ids = np.arange(-1, len(input_ids) - 1, dtype=np.int32)
        word_ids[-1] = -1
        return Context(input_ids.astype(np.int32), word_ids, word_ids >= 0, document)

    def _labelled(
        self, rng: np.random.Generator, new_TN: np.ndarray, twins: np.ndarray, known: int
    ) -> list[Feature]:
        """Documents of known keywords and of a few new ones."""
        topics_B, documents_BL = self._task_documents(
            rng, self.settings.labelled, self.vocabulary.known_TK, twins
        )
        rows, columns = np.nonzero(self.informative_V[documents_BL])
        swapped = rng.permutation(len(rows))[known:]
        for topic, words_N in enumerate(new_TN):
            places = swapped[topics_B[rows[swapped]] == topic]
            documents_BL[rows[places], columns[places]] = evenly(rng, words_N, len(places))
        return self._features(documents_BL, topics_B)

    def _scored(
        self, rng: np.random.Generator, new_TN: np.ndarray, twins: np.ndarray
    ) -> list[Feature]:
        """Documents of new keywords."""
        topics_B, documents_BL = self._task_documents(rng, self.settings.scored, new_TN, twins)
        return self._features(documents_BL, topics_B)

    def _task_documents(
        self, rng: np.random.Generator, count: int, words_TN: np.ndarray, twins: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Topics (B,), and documents (B, L) with keywords of them."""
        settings = self.settings
        topics_B = self._topics(rng, count)
        documents_BL = fill_in(
            rng,
            topics_B,
            settings.task_words,
            [(words_TN, settings.task_keywords)],
            lambda others: self.vocabulary.other(rng, others, twins),
        )
        return topics_B, documents_BL

    def _features(self, documents_BL: np.ndarray, topics_B: np.ndarray) -> list[Feature]:
        texts = (" ".join(self._words[ids]) for ids in documents_BL)
        types = np.zeros(documents_BL.shape[1] + 2, dtype=np.int8)
        return [
            Feature(
                ids.astype(np.int32),
                types,
                (int(topic),),
                TextExample(str(row), text, self.labels[topic]),
            )
            for row, (ids, topic, text) in enumerate(
                zip(wrapped(documents_BL), topics_B, texts, strict=True)
            )
        ]


def _content_id(input_ids: np.ndarray) -> int:
    """31 bits of the text's hash: the same text has the same id in every deal and process."""
    digest = hashlib.blake2b(np.ascontiguousarray(input_ids).tobytes(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


class KnownMask:
    """The policy that knows what is worth masking, and masks it, or all else.

    Args:
        world: where it plays; words it does not know from there it takes for uninformative.
        share: chance that a masked token is an informative one: 1 gives a best mask, 0 a worst.
    """

    def __init__(self, world: TestbedWorld, share: float = 1.0, seed: int = 0) -> None:
        self.informative_V = world.informative_V
        self.share = share
        self.seed(seed)

    def seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def predict(
        self,
        observation: dict[str, np.ndarray],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Draw masks; with the share between 0 and 1 each token's kind is drawn on its own."""
        maskable = observation["maskable"].astype(bool)
        informative = self.informative_V[observation["input_ids"]]
        wanted = self._rng.random(maskable.shape) < self.share
        keys = np.where(maskable, self._rng.random(maskable.shape), np.inf)
        # The token of rank r of a kind is taken where the draw number r asked for that kind.
        chosen = np.zeros(maskable.shape, dtype=bool)
        for kind, asked in ((informative, wanted), (~informative, ~wanted)):
            rank = np.argsort(np.argsort(keys + np.where(kind, 0.0, 2.0), axis=-1), axis=-1)
            chosen |= (rank < observation["budget"]) & np.take_along_axis(asked, rank, axis=-1)
        return (chosen & maskable).astype(np.int8), state


def best_mask(world: TestbedWorld) -> KnownMask:
    """Masks informative tokens only."""
    return KnownMask(world, 1.0)


def worst_mask(world: TestbedWorld) -> KnownMask:
    """Masks no informative token."""
    return KnownMask(world, 0.0)
