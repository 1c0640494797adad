"""Masking strategies: budgets, words, seeds, and known answers."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from agents.strategies import (
    STRATEGIES,
    Collocations,
    CosineDecay,
    CyclicDecay,
    Entities,
    Fragment,
    GeometricSpans,
    LinearDecay,
    NoMask,
    RandomTokens,
    Salient,
    Scheduled,
    ShuffledPolicy,
    Table,
    WholeWords,
    make_strategy,
)
from agents.strategies.base import Batch
from agents.strategies.collocations import pmi_scores, pmi_units
from agents.strategies.counts import (
    document_frequency,
    inverse_document_frequency,
    smooth_idf,
    word_types,
)
from agents.strategies.entities import spelled_entities
from agents.strategies.recurring import recurring_spans
from agents.strategies.scored import anchor_similarity, domain_anchors, span_means
from agents.strategies.shuffled import inclusion, systematic
from agents.strategies.wording import name_words
from envs.spaces import observation_row, pad_contexts
from envs.text.corpus import build_corpus
from nmg.limits import COUNTING
from nmg.maskings import measured

DOCUMENTS = (
    "The engineer Marie Holt designed the bridge of Arden in 1902. It crosses the river Sel.",
    "Receptors bind proteins; the proteins inhibit growth. Growth stops after 3.5 days, it seems.",
    "We compare our method with earlier work (Holt, 1999) on 1,200 sentences of the Arden corpus!",
    "The film is good, the music is great, the end is sad. The film is long.",
    "Hydroxyphenylalanine.",
)
WHOLE = ("whole_word", "span", "pmi", "keyword")
DRAWN = sorted(set(STRATEGIES) - {"none"})


def observe(tokenizer, budget=0.2, documents=DOCUMENTS, extra=0):
    corpus = build_corpus(documents, tokenizer, window=64)
    length = max(map(len, corpus)) + extra
    ids = np.arange(len(corpus))
    return corpus, pad_contexts(list(corpus), ids, tokenizer, length=length, budget=budget)


def made(name, tokenizer, seed=0, **options):
    corpus, observation = observe(tokenizer)
    size = len(tokenizer)
    return make_strategy(
        name,
        tokenizer=tokenizer,
        contexts=list(corpus),
        reference_contexts=list(corpus)[:2],
        texts=DOCUMENTS,
        embeddings=np.random.default_rng(0).normal(size=(size, 8)),
        entropy=lambda seen: np.cos(seen["input_ids"].astype(float)),
        policy=RandomTokens(),
        observation=observation,
        seed=seed,
        **options,
    )


@pytest.fixture(params=["wordpiece", "bpe"])
def tokenizer(request, tiny_tokenizer, bpe_tokenizer):
    return {"wordpiece": tiny_tokenizer, "bpe": bpe_tokenizer}[request.param]


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("budget", [0.02, 0.2, 1.0])
def test_budget_is_kept_and_special_tokens_stay(name, budget, tokenizer):
    strategy = made(name, tokenizer)
    _, observation = observe(tokenizer, budget, extra=3)
    for deterministic in (False, True):
        mask, state = strategy.predict(observation, deterministic=deterministic)
        assert mask.dtype == np.int8
        assert state is None
        assert not mask[observation["maskable"] == 0].any()
        assert (mask.sum(1) <= observation["budget"][:, 0]).all()


@pytest.mark.parametrize(
    "name", ["random", "idf", "common", "rare", "entropy", "difference", "mass", "entity",
             "salient", "punctuation", "recurring"],
)  # fmt: skip
def test_budget_is_filled(name, tokenizer):
    _, observation = observe(tokenizer)
    mask, _ = made(name, tokenizer).predict(observation)
    assert (mask.sum(1) == observation["budget"][:, 0]).all()


@pytest.mark.parametrize("name", DRAWN)
def test_same_seed_same_mask_one_by_one_or_batched_padded_or_not(name, tokenizer):
    _, observation = observe(tokenizer)
    _, wider = observe(tokenizer, extra=7)
    batched, _ = made(name, tokenizer, seed=5).predict(observation)
    again = made(name, tokenizer, seed=1)
    again.seed(5)
    np.testing.assert_array_equal(again.predict(observation)[0], batched)
    single = made(name, tokenizer, seed=5)
    rows = [single.predict(observation_row(observation, row))[0] for row in range(len(batched))]
    assert rows[0].shape == batched[0].shape
    np.testing.assert_array_equal(np.stack(rows), batched)
    if name != "entropy":  # its scores come from the caller
        padded, _ = made(name, tokenizer, seed=5).predict(wider)
        np.testing.assert_array_equal(padded[:, : batched.shape[1]], batched)


@pytest.mark.parametrize("name", ["random", "whole_word", "span", "rare", "mass", "shuffled"])
def test_another_seed_draws_another_mask(name, tokenizer):
    _, observation = observe(tokenizer)
    one, two = (made(name, tokenizer, seed=s).predict(observation)[0] for s in (1, 2))
    assert (one != two).any()


@pytest.mark.parametrize("name", [*WHOLE, "idf"])
def test_words_stay_whole(name, tokenizer):
    strategy = made(name, tokenizer, **({"words": True} if name == "idf" else {}))
    corpus, observation = observe(tokenizer, 0.4)
    split = 0
    for _ in range(20):
        mask, _ = strategy.predict(observation)
        for row, context in enumerate(corpus):
            for word in set(context.word_ids.tolist()) - {-1}:
                bits = mask[row, : len(context)][context.word_ids == word]
                assert bits.min() == bits.max()
                split += int(len(bits) > 1 and bits[0] == 1)
    assert split, "no word of several tokens was ever masked"


def test_special_tokens_that_the_text_spells_out_stay_too(tiny_tokenizer):
    text = "the [MASK] river [SEP] flows [PAD] §"
    (context,) = build_corpus([text], tiny_tokenizer, window=64)
    tokens = tiny_tokenizer.convert_ids_to_tokens(context.input_ids[context.maskable].tolist())
    assert tokens == ["the", "river", "flows", "[UNK]"]
    (empty,) = build_corpus(["[SEP]"], tiny_tokenizer, window=64)
    assert not empty.maskable.any()


def test_words_follow_the_tokenizer_not_the_spelling(bpe_tokenizer):
    corpus = build_corpus(["engineers designed bridges"], bpe_tokenizer, window=64)
    words = word_types(corpus[0])
    assert [bpe_tokenizer.decode(list(word)).strip() for word in words] == [
        "engineers",
        "designed",
        "bridges",
    ]
    assert len(corpus[0]) > 3 + 2


def test_a_word_longer_than_the_budget_is_left_out(tiny_tokenizer):
    _, observation = observe(tiny_tokenizer, 0.1, documents=("hydroxyphenylalanine",))
    assert WholeWords().predict(observation)[0].sum() == 0


def test_random_is_uniform(tiny_tokenizer):
    _, observation = observe(tiny_tokenizer)
    strategy = RandomTokens(3)
    row = observation_row(observation, 0)
    counts = sum(strategy.predict(row)[0].astype(int) for _ in range(3000))
    expected = 3000 * row["budget"][0] / row["maskable"].sum()
    free = counts[row["maskable"] == 1]
    assert abs(free - expected).max() < 5 * math.sqrt(expected)


def test_span_lengths_are_geometric():
    """Few spans among many one-token words hardly touch: runs follow Geo(0.2) restricted to 10."""
    length = 50_000
    observation = {
        "input_ids": np.arange(length, dtype=np.int32),
        "word_ids": np.arange(length, dtype=np.int32),
        "maskable": np.ones(length, np.int8),
        "budget": np.array([500], np.int32),
    }
    strategy = GeometricSpans(seed=1)
    seen = np.zeros(11)
    for _ in range(30):
        mask, _ = strategy.predict(observation)
        assert mask.sum() == 500
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
        runs = edges[1::2] - edges[::2]
        seen += np.bincount(runs[runs <= 10], minlength=11)
    weights = 0.2 * 0.8 ** np.arange(10)
    expected = seen.sum() * weights / weights.sum()
    chi2 = ((seen[1:] - expected) ** 2 / expected).sum()
    assert chi2 < 27.9  # 0.1% of a chi-square with 9 degrees of freedom
    assert (seen * np.arange(11)).sum() / seen.sum() == pytest.approx(3.8, abs=0.15)


def test_spans_are_contiguous_words(bpe_tokenizer):
    corpus, observation = observe(bpe_tokenizer, 0.5)
    mask, _ = GeometricSpans(p=1.0, max_words=1).predict(observation)
    assert mask.sum() > 0
    long = GeometricSpans(p=0.01, max_words=3, seed=2)
    mask, _ = long.predict(observation)
    row = np.flatnonzero(mask[2])
    words = np.unique(corpus[2].word_ids[row])
    assert (np.diff(words) == 1).mean() >= 0.5


@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_fragment_is_one_stretch(budget, tiny_tokenizer):
    corpus, observation = observe(tiny_tokenizer, budget)
    mask, _ = Fragment().predict(observation)
    for row in range(len(corpus)):
        places = np.flatnonzero(mask[row])
        assert len(places) == observation["budget"][row, 0] > 0
        assert places[-1] - places[0] == len(places) - 1


def test_idf_against_sklearn(tiny_tokenizer):
    corpus, _ = observe(tiny_tokenizer)
    size = len(tiny_tokenizer)
    counts = np.stack([np.bincount(c.input_ids[c.maskable], minlength=size) for c in corpus])
    expected = TfidfTransformer(smooth_idf=True).fit(counts).idf_ - 1
    np.testing.assert_allclose(inverse_document_frequency(list(corpus), size), expected)


def test_idf_and_common_take_the_two_ends(tiny_tokenizer):
    corpus, observation = observe(tiny_tokenizer)
    frequency = document_frequency(list(corpus), len(tiny_tokenizer))[observation["input_ids"]]
    ends = {}
    for name in ("idf", "common"):
        mask, _ = made(name, tiny_tokenizer).predict(observation)
        ends[name] = frequency[mask == 1].mean()
        for row in range(len(mask)):
            free = (observation["maskable"][row] == 1) & (mask[row] == 0)
            chosen = frequency[row][mask[row] == 1]
            if name == "idf" and free.any():
                assert chosen.max() <= frequency[row][free].min()
    assert ends["idf"] < ends["common"]


def shares_of_draws(strategy, tokenizer, text, tokens=1):
    """How often each token of a text is among those that are masked, (tokens,)."""
    (context,) = corpus = build_corpus([text], tokenizer, window=64)
    observation = pad_contexts(list(corpus), np.zeros(1, int), tokenizer, budget=0.1)
    many = {name: np.repeat(values, 4000, axis=0) for name, values in observation.items()}
    many["budget"][:] = tokens
    mask, _ = strategy.predict(many)
    assert (mask.sum(1) == tokens).all()
    return mask[:, : len(context)].mean(0)[context.maskable]


def test_rare_samples_by_the_square_root_of_inverse_counts(tiny_tokenizer):
    text = " ".join(["sea"] + 4 * ["river"] + 16 * ["town"])
    contexts = list(build_corpus([text], tiny_tokenizer, window=64))
    strategy = make_strategy("rare", tokenizer=tiny_tokenizer, contexts=contexts)
    shares = shares_of_draws(strategy, tiny_tokenizer, "sea river town")
    np.testing.assert_allclose(shares, np.array([4, 2, 1]) / 7, atol=0.03)


def test_ties_are_broken_at_random_unless_deterministic():
    observation = {
        "input_ids": np.zeros(50, int),
        "word_ids": np.arange(50),
        "maskable": np.ones(50, np.int8),
        "budget": np.array([5]),
    }
    strategy = Table(np.zeros(1))
    np.testing.assert_array_equal(
        np.flatnonzero(strategy.predict(observation, deterministic=True)[0]), np.arange(5)
    )
    means = [np.flatnonzero(strategy.predict(observation)[0]).mean() for _ in range(200)]
    assert np.mean(means) == pytest.approx(24.5, abs=2)


def test_words_of_equal_scores_have_equal_means_whatever_their_lengths():
    spans = np.array([0, 1, 4, 11]), np.array([1, 4, 11, 13])
    scores = np.array([*[0.1] * 11, 0.0, 1.0])
    assert sum([0.1] * 3) / 3 != 0.1  # what the means would be
    np.testing.assert_array_equal(span_means(scores, spans), [0.1, 0.1, 0.1, 0.5])


def test_scores_of_minus_infinity_are_never_masked_and_nan_is_refused(tiny_tokenizer):
    _, observation = observe(tiny_tokenizer)
    size = len(tiny_tokenizer)
    for words in (False, True):
        mask, _ = Table(np.full(size, -np.inf), words=words, sample=True).predict(observation)
        assert mask.sum() == 0
    with pytest.raises(ValueError, match="not numbers"):
        Table(np.full(size, np.nan)).predict(observation)


def test_keyword_takes_the_word_of_highest_tf_idf(tiny_tokenizer):
    documents = ("the protein binds the protein", "the river", "the bridge", "the town")
    corpus, observation = observe(tiny_tokenizer, 0.3, documents)
    strategy = make_strategy("keyword", contexts=list(corpus))
    mask, _ = strategy.predict(observation_row(observation, 0), deterministic=True)
    chosen = corpus[0].input_ids[np.flatnonzero(mask)]
    # tf-idf: protein 2/5 ln(5/2), binds 1/5 ln(5/2), the 0
    assert tiny_tokenizer.decode(chosen.tolist()) == "protein protein"


def test_pmi_of_known_counts():
    a, b, c = (1,), (2,), (3,)
    documents = [[a, b, c], [a, b], [c, c]]
    scores = pmi_scores(documents, max_words=3, min_count=1)
    # 7 words: a 2, b 2, c 3; 4 pairs: ab 2, bc 1, cc 1; 1 triple.
    assert scores[(a, b)] == pytest.approx(math.log((2 / 4) / (2 / 7 * 2 / 7)))
    assert scores[(c, c)] == pytest.approx(math.log((1 / 4) / (3 / 7 * 3 / 7)))
    cuts = [2 / 7 * 1 / 4, 2 / 4 * 3 / 7, 2 / 7 * 2 / 7 * 3 / 7]
    assert scores[(a, b, c)] == pytest.approx(math.log(1 / max(cuts)))
    assert (c, c) not in pmi_scores(documents, max_words=3, min_count=2)


def test_units_are_the_ngrams_of_highest_pmi_above_zero():
    def context(*words):
        n = len(words)
        return SimpleNamespace(
            input_ids=np.array(words), word_ids=np.arange(n), maskable=np.ones(n, bool)
        )

    # p(1 2) / (p(1) p(2)) = 3.84; of 2 1 it is 0.96, of 3 4 it is 24.
    contexts = [*(context(1, 2) for _ in range(4)), context(2, 1), context(3, 4)]
    best, second = ((3,), (4,)), ((1,), (2,))
    assert pmi_units(contexts, size=1, min_count=1) == {best}
    assert pmi_units(contexts, min_count=1) == {best, second}
    assert pmi_units(contexts, min_count=2) == {second}


def test_pmi_masks_units_as_one(tiny_tokenizer):
    documents = ["new york is in the north"] * 5 + ["the new film is in york"]
    corpus, observation = observe(tiny_tokenizer, 1.0, documents)
    words = word_types(corpus[0])
    strategy = Collocations([tuple(words[:2])])
    assert strategy.segment(words)[0] == (0, 1)
    last = word_types(corpus[5])
    assert strategy.segment(last) == [(n, n) for n in range(len(last))]
    row = observation_row(observation, 0)
    row["budget"][:] = 8
    unit = np.isin(corpus[0].word_ids, [0, 1])
    for _ in range(20):
        bits = strategy.predict(row)[0][: len(corpus[0])][unit]
        assert bits.min() == bits.max()


def test_difference_prefers_words_near_the_anchors():
    domain, reference = np.array([50, 10, 0, 5]), smooth_idf(np.array([9, 0, 5, 4]), 9)
    # 50 ln(10/10), 10 ln(10/1), 0 ln(10/6), 5 ln(10/5)
    assert domain_anchors(domain, reference).tolist() == [1, 3]
    anchors = domain_anchors(domain, reference, n_anchors=1)
    embeddings = np.array([[0, 1.0], [2.0, 0], [1.0, 1.0], [-1.0, 0]])
    near = anchor_similarity(embeddings, anchors)
    np.testing.assert_allclose(np.exp(near), [0.01, 1, math.sqrt(0.5), 0.01])


def test_difference_anchors_on_words_of_the_domain_alone(tiny_tokenizer):
    def contexts(*documents):
        return list(build_corpus(documents, tiny_tokenizer, window=64))

    domain = contexts("the protein; the §; the protein; the §;")
    given = {"tokenizer": tiny_tokenizer, "embeddings": np.eye(len(tiny_tokenizer))}
    reference = contexts("the film is good", "the end", "the music")
    strategy = make_strategy("difference", contexts=domain, reference_contexts=reference, **given)
    anchors = np.flatnonzero(strategy.table_V == 0)
    assert tiny_tokenizer.decode(anchors.tolist()) == "protein"
    with pytest.raises(ValueError, match="no word of the domain"):
        make_strategy("difference", contexts=domain, reference_contexts=domain, **given)


def test_difference_samples_in_proportion_to_the_similarity(tiny_tokenizer):
    def contexts(*documents):
        return list(build_corpus(documents, tiny_tokenizer, window=64))

    anchor, near, far = (int(word.input_ids[1]) for word in contexts("protein", "receptor", "film"))
    embeddings = np.eye(len(tiny_tokenizer))
    for word, similarity in ((near, 0.6), (far, 0.2)):
        embeddings[word, word] = math.sqrt(1 - similarity**2)
        embeddings[word, anchor] = similarity
    strategy = make_strategy(
        "difference",
        tokenizer=tiny_tokenizer,
        embeddings=embeddings,
        contexts=contexts("protein receptor film"),
        reference_contexts=contexts("film receptor", "receptor film"),
    )
    shares = shares_of_draws(strategy, tiny_tokenizer, "film receptor")
    np.testing.assert_allclose(shares, [1 / 4, 3 / 4], atol=0.03)


def text_of(tokenizer, corpus, mask, row=0):
    return tokenizer.decode(corpus[row].input_ids[np.flatnonzero(mask[row])].tolist())


def test_entities_by_spelling(bpe_tokenizer):
    corpus, observation = observe(bpe_tokenizer, 1.0)
    strategy = Entities(bpe_tokenizer, fill=False)
    mask, _ = strategy.predict(observation)
    assert text_of(bpe_tokenizer, corpus, mask).split() == ["Marie", "Holt", "Arden", "1902", "Sel"]
    assert text_of(bpe_tokenizer, corpus, mask, 2).split() == ["Holt", "1999", "1,200", "Arden"]
    assert mask[3].sum() == 0  # "The" starts a sentence


def test_entities_of_an_uncased_tokenizer(tiny_tokenizer):
    corpus, observation = observe(tiny_tokenizer, 1.0)
    with pytest.warns(UserWarning, match="does not keep capitals"):
        Entities(tiny_tokenizer)
    names = name_words(DOCUMENTS)
    assert {"marie", "holt", "arden", "sel"} <= names
    assert not names & {"the", "film", "growth", "it"}
    mask, _ = Entities(tiny_tokenizer, names=names, fill=False).predict(observation)
    assert text_of(tiny_tokenizer, corpus, mask).split() == [
        "marie",
        "holt",
        "arden",
        "1902",
        "sel",
    ]
    assert text_of(tiny_tokenizer, corpus, mask, 1).replace(" ", "") == "3.5"


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("jose nunez is in destiny ' s child", ["jose nunez", "destiny", "child"]),  # BERT's words
        ("josé núñez is in destiny's child", ["josé núñez", "destiny's child"]),
        ("it is sino - tibetan", ["sino", "tibetan"]),
        ("it is sino-tibetan", ["sino-tibetan"]),
    ],
)
def test_names_with_accents_apostrophes_and_hyphens_are_found_uncased(text, entities):
    names = name_words(["We met José Núñez of Destiny's Child, in a Sino-Tibetan language."])
    assert names == {"jose", "nunez", "destiny", "child", "sino", "tibetan"}
    words = text.split()
    found = spelled_entities(words, names)
    assert [" ".join(words[first : last + 1]) for first, last in found] == entities
    assert spelled_entities(["josé"], {"josé"}) == [(0, 0)]


def test_names_are_not_used_with_cased_tokenizers(bpe_tokenizer):
    assert make_strategy("entity", tokenizer=bpe_tokenizer, texts=DOCUMENTS).names is None


def test_entities_by_a_finder(tokenizer):
    corpus, observation = observe(tokenizer, 1.0)

    def finder(text):
        start = text.lower().find("bridge of")
        return [(start, start + len("bridge of"))] if start >= 0 else []

    mask, _ = Entities(tokenizer, finder=finder, fill=False).predict(observation)
    assert text_of(tokenizer, corpus, mask).strip() == "bridge of"
    assert mask[1:].sum() == 0


def test_salient_takes_one_span_a_sentence(bpe_tokenizer):
    corpus, observation = observe(bpe_tokenizer, 1.0)
    strategy = Salient(bpe_tokenizer, fill=False)
    firsts = set()
    for _ in range(40):
        mask, _ = strategy.predict(observation)
        first, second = text_of(bpe_tokenizer, corpus, mask).rsplit(" ", 1)
        assert second == "Sel"
        firsts.add(first.strip())
    assert firsts == {"Marie Holt", "Arden", "1902"}


def test_salient_draws_sentences_alike_however_many_entities_they_have(tiny_tokenizer):
    text = "1 and 2 and 3 and 4 and 5 . and 7 ."
    strategy = Salient(tiny_tokenizer, names=set(), fill=False)
    shares = dict(zip(text.split(), shares_of_draws(strategy, tiny_tokenizer, text), strict=True))
    assert shares["7"] == pytest.approx(1 / 2, abs=0.03)
    assert [shares[number] for number in "12345"] == pytest.approx([1 / 10] * 5, abs=0.03)


def test_salient_does_not_end_sentences_inside_numbers(tiny_tokenizer):
    documents = ["growth in Sel is 3.5 days in Arden."]
    corpus, observation = observe(tiny_tokenizer, 1.0, documents)
    strategy = Salient(tiny_tokenizer, names={"arden", "sel"}, fill=False)
    drawn = set()
    for _ in range(40):
        mask, _ = strategy.predict(observation)
        drawn.add(text_of(tiny_tokenizer, corpus, mask).replace(" ", ""))
    assert drawn == {"sel", "3.5", "arden"}


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("He was born on 12 May 1990 in Paris", ["12 May 1990", "Paris"]),
        ("May 12 , 1990 was a Monday", ["May 12 , 1990", "Monday"]),
        ("she met Ada in Sept 1843", ["Ada", "Sept 1843"]),
        ("it opened on 3 June", ["3 June"]),
        ("from 1990 may follow what is 2.5 times as much", ["1990", "2.5"]),
        ("she left in May with Theresa May", ["May", "Theresa May"]),
    ],
)
def test_dates_are_one_entity(text, entities):
    words = text.split()
    found = spelled_entities(words)
    assert [" ".join(words[first : last + 1]) for first, last in found] == entities


def test_punctuation(tokenizer):
    corpus, observation = observe(tokenizer, 1.0)
    mask, _ = make_strategy("punctuation", tokenizer=tokenizer, fill=False).predict(observation)
    assert text_of(tokenizer, corpus, mask, 3).replace(" ", "") == ",,.."


def test_recurring_spans_are_maximal_and_one_stays(tiny_tokenizer):
    the, film, is_, good, long = ((n,) for n in range(5))
    words = [the, film, is_, good, the, film, is_, long, good]
    content = [word in (film, good, long) for word in words]
    assert recurring_spans(words, content, 10) == [[(0, 2), (4, 6)], [(3, 3), (8, 8)]]
    corpus, observation = observe(tiny_tokenizer, 1.0)
    strategy = make_strategy("recurring", tokenizer=tiny_tokenizer, fill=False)
    mask, _ = strategy.predict(observation)
    assert text_of(tiny_tokenizer, corpus, mask, 3) == "the film is"
    assert mask[4].sum() == 0


def test_the_occurrence_that_stays_is_drawn(tiny_tokenizer):
    strategy = make_strategy("recurring", tokenizer=tiny_tokenizer, fill=False)
    shares = shares_of_draws(strategy, tiny_tokenizer, "film and film in film", tokens=2)
    np.testing.assert_allclose(shares, [2 / 3, 0, 2 / 3, 0, 2 / 3], atol=0.03)


def test_systematic_sampling_keeps_chances():
    rng = np.random.default_rng(0)
    weights = rng.random((3, 40)) ** 4
    weights[1, :35] = 0
    sizes = np.array([7.0, 8.0, 2.5])
    chances = inclusion(weights, sizes)
    np.testing.assert_allclose(chances.sum(1), [7, 5, 2.5])
    assert chances.max() <= 1
    free = chances[0] < 1
    ratio = chances[0][free] / weights[0][free]
    np.testing.assert_allclose(ratio, ratio[0])
    drawn = np.stack([systematic(chances[0], rng) for _ in range(4000)])
    assert (drawn.sum(1) == 7).all()
    np.testing.assert_allclose(drawn.mean(0), chances[0], atol=0.04)
    sizes = {systematic(chances[2], rng).sum() for _ in range(50)}
    assert sizes == {2, 3}


class FavouriteTypes:
    """Always masks the tokens of lowest id, from the right: rates and places both skewed."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        batch = Batch.of(observation)
        ids = np.where(batch.maskable_BL, batch.input_ids_BL, 10**6)
        order = np.lexsort((-np.broadcast_to(np.arange(ids.shape[1]), ids.shape), ids), axis=1)
        mask = np.zeros(ids.shape, np.int8)
        np.put_along_axis(mask, order, np.arange(ids.shape[1]) < batch.budget_B[:, None], axis=1)
        return mask, None


def test_shuffled_keeps_rates_and_loses_places():
    rng = np.random.default_rng(0)
    shape = (60, 80)
    observation = {
        "input_ids": rng.zipf(1.6, shape).clip(max=40),
        "word_ids": np.broadcast_to(np.arange(80), shape),
        "maskable": (rng.random(shape) < 0.95).astype(np.int8),
        "budget": np.full((60, 1), 8),
    }
    policy = FavouriteTypes()
    control = ShuffledPolicy(policy, observation, seed=1)
    original, _ = policy.predict(observation)
    masks = np.stack([control.predict(observation)[0] for _ in range(100)])
    assert (masks.sum(2) == 8).all()
    for kind in range(1, 41):
        here = (observation["input_ids"] == kind) & (observation["maskable"] == 1)
        if here.any():
            assert masks[:, here].mean() == pytest.approx(original[here].mean(), abs=0.03)
    columns = np.arange(80)
    place = (original * columns).sum() / original.sum()
    assert place > 42
    assert (masks * columns).sum() / masks.sum() == pytest.approx(39.5, abs=1.5)


def test_shuffled_does_not_copy_the_policy_where_it_was_measured():
    rng = np.random.default_rng(0)
    shape = (200, 30)
    observation = {
        "input_ids": rng.permutation(6000).reshape(shape),  # each its own type: its place is known
        "word_ids": np.broadcast_to(np.arange(30), shape),
        "maskable": np.ones(shape, np.int8),
        "budget": np.full((200, 1), 3),
        "context_id": np.arange(200)[:, None],
    }
    policy = FavouriteTypes()
    original, _ = policy.predict(observation)

    def shared(measured_on):
        masks, _ = ShuffledPolicy(policy, measured_on).predict(observation)
        return (masks & original).sum() / original.sum()

    assert shared(observation) == pytest.approx(0.1, abs=0.04)  # chance
    observation["context_id"] *= 4
    assert shared(observation) == pytest.approx(0.1, abs=0.04)
    with pytest.warns(UserWarning, match="on a single context"):
        ShuffledPolicy(policy, {name: a[:1] for name, a in observation.items()})
    unnumbered = {name: a for name, a in observation.items() if name != "context_id"}
    assert shared(unnumbered) == 1.0


@pytest.mark.parametrize("n", [1_999, 2_000, 2_001, 4_000, 4_001, 6_500])
def test_shuffled_is_measured_on_even_and_odd_contexts(n):
    ids = measured({"input_ids": np.arange(n)})["input_ids"]
    assert n / 6 < len(ids) <= 2_000
    assert abs(np.mean(ids % 2) - 0.5) < 0.01
    assert len(np.unique(np.diff(ids))) == 1


def test_shuffled_copies_a_policy_that_saves_budget():
    rng = np.random.default_rng(0)
    observation = {
        "input_ids": rng.integers(0, 20, (30, 40)),
        "word_ids": np.broadcast_to(np.arange(40), (30, 40)),
        "maskable": np.ones((30, 40), np.int8),
        "budget": np.full((30, 1), 10),
    }
    half = Scheduled(RandomTokens(), lambda step: 0.5)
    masks, _ = ShuffledPolicy(half, observation).predict(observation)
    assert (masks.sum(1) == 5).all()
    nothing, _ = ShuffledPolicy(NoMask(), observation).predict(observation)
    assert nothing.sum() == 0
    unseen = {**observation, "input_ids": observation["input_ids"] + 1000}
    assert ShuffledPolicy(RandomTokens(), observation).predict(unseen)[0].sum() == 300


def test_schedules_scale_the_budget(tiny_tokenizer):
    linear = LinearDecay(steps=10, start=1.0, end=0.5)
    assert [linear(0), linear(5), linear(10), linear(99)] == [1.0, 0.75, 0.5, 0.5]
    cosine = CosineDecay(steps=10)
    published = [0.15 * (1 + math.cos(math.pi * step / 10)) + 0.02 for step in range(11)]
    assert [0.32 * cosine(step) for step in range(11)] == pytest.approx(published)
    assert cosine(50) == cosine(10)
    assert [CyclicDecay((1.0, 0.5))(step) for step in range(3)] == [1.0, 0.5, 1.0]
    _, observation = observe(tiny_tokenizer, 0.3)
    full = observation["budget"].sum()
    scheduled = Scheduled(RandomTokens(), linear)
    assert scheduled.predict(observation)[0].sum() == full
    scheduled.step = 10
    assert scheduled.predict(observation)[0].sum() == pytest.approx(full / 2, abs=5)
    observation["budget"][:] = np.array([[0], [1], [2], [3], [9]])
    for factor, masked in ((0.1, [0, 1, 1, 1, 1]), (0.0, [0] * 5)):
        low, _ = Scheduled(RandomTokens(), lambda step, factor=factor: factor).predict(observation)
        assert low.sum(1).tolist() == masked
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        Scheduled(RandomTokens(), lambda step: 1.5).predict(observation)


def test_unknown_names_and_missing_parts_are_named(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"no strategy 'whole_wrd'; did you mean 'whole_word'"):
        make_strategy("whole_wrd")
    with pytest.raises(ValueError, match="'idf' needs contexts"):
        make_strategy("idf", tokenizer=tiny_tokenizer)
    with pytest.raises(ValueError, match="does not take one of the options"):
        make_strategy("random", colour="red")
    assert isinstance(make_strategy("whole-word"), WholeWords)


def test_the_strategies_that_count_in_a_corpus_are_known_by_name(tiny_tokenizer):
    def refusal(name):
        try:
            make_strategy(name, tokenizer=tiny_tokenizer, texts=[])
        except ValueError as error:
            return str(error)
        return ""

    assert {name for name in STRATEGIES if "needs contexts" in refusal(name)} == set(COUNTING)


def test_two_hundred_contexts_are_masked_fast():
    """A guard against slow loops, not a measurement: usual times are below 0.1 s."""
    rng = np.random.default_rng(0)
    shape = (200, 512)
    words = np.sort(rng.integers(0, 350, shape), axis=1)
    observation = {
        "input_ids": rng.integers(0, 3000, shape),
        "word_ids": words,
        "maskable": np.ones(shape, np.int8),
        "budget": np.full((200, 1), 25),
    }
    table = rng.normal(size=3000)
    for strategy in (RandomTokens(), WholeWords(), GeometricSpans(), Table(table, words=True)):
        start = time.perf_counter()
        strategy.predict(observation)
        assert time.perf_counter() - start < 2
