"""Question answering: windows, targets, answers and scores, for several tokenizer families."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertForQuestionAnswering, PreTrainedTokenizerFast

from envs.adaptation.scorer import Scorer
from envs.models.language_model import LanguageModel
from envs.tasks import question_answering, question_windows
from envs.tasks.question_answering import QuestionAnswering
from envs.text.examples import QuestionExample

CONTEXT = (
    "The river rises in the northern hills and flows south to the sea. "
    "In 1902 the town of Arden built a bridge over the river. "
    "Marie Holt, an engineer from Arden, designed the bridge in three months."
)


def question(text, answer, number=1, context=CONTEXT):
    start = context.index(answer) if answer else 0
    answers = ((answer, start),) if answer else ()
    return QuestionExample(str(number), "Arden", context, text, answers, not answer)


EXAMPLES = [
    question("Who designed the bridge?", "Marie Holt", 1),
    question("Where does the river flow?", "south to the sea", 2),
    question("When was it built?", "1902", 3),
    question("Where does it rise?", "The river", 4),
    question("How long did it take?", "three months.", 5),
]
IMPOSSIBLE = question("Who crossed it first?", "", 9)


def unigram_tokenizer(template=None):
    """A SentencePiece-like tokenizer (spaces belong to words), by default without special tokens
    around the text, as in GPT's family."""
    special = ["<unk>", "<sep>", "<cls>", "<pad>"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([CONTEXT] + [example.question for example in EXAMPLES], trainer)
    if template:
        backend.post_processor = processors.TemplateProcessing(
            single="$A <sep>", pair=template, special_tokens=[("<sep>", 1), ("<cls>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        sep_token="<sep>",
        cls_token="<cls>" if template else None,
        pad_token="<pad>",
    )


@pytest.fixture(params=["wordpiece", "bpe", "unigram", "xlnet"])
def tokenizer(request, tiny_tokenizer, bpe_tokenizer):
    if request.param == "wordpiece":
        return tiny_tokenizer
    if request.param == "bpe":
        return bpe_tokenizer
    return unigram_tokenizer("$A <sep> $B:1 <sep>:1 <cls>:2" if request.param == "xlnet" else None)


@pytest.fixture
def task(tiny_tokenizer):
    return QuestionAnswering(tiny_tokenizer)


SHORT, QUESTION = 44, 24


@pytest.fixture
def short(monkeypatch):
    """Makes tasks with windows so short that every context needs several."""
    monkeypatch.setattr(question_windows, "MAX_QUESTION_TOKENS", QUESTION)
    return lambda tokenizer: QuestionAnswering(tokenizer, max_length=SHORT, stride=12)


def is_null(task, feature):
    return feature.target == (task.windows.null_index(len(feature)),) * 2


def perfect_outputs(features, height=20.0):
    """Noise, and high logits at the targets."""
    rng = np.random.default_rng(0)
    outputs = []
    for feature in features:
        output = rng.normal(size=(len(feature), 2)).astype(np.float32)
        output[list(feature.target), [0, 1]] += height
        outputs.append(output)
    return outputs


def without_null_windows(task, features, outputs):
    """Outputs where windows without the answer do not vote for an answer of their own."""
    return [
        output * (not is_null(task, feature))
        for feature, output in zip(features, outputs, strict=True)
    ]


def span_text(feature):
    start, end = feature.target
    return feature.example.context[feature.offsets[start, 0] : feature.offsets[end, 1]]


@pytest.mark.parametrize("windows", ["one", "several"])
def test_targets_give_the_answers_back(tokenizer, short, windows):
    task = QuestionAnswering(tokenizer) if windows == "one" else short(tokenizer)
    features = task.features(EXAMPLES, training=True)
    assert (len(features) == len(EXAMPLES)) == (windows == "one")
    for example in EXAMPLES:
        own = [feature for feature in features if feature.example is example]
        found = [feature for feature in own if not is_null(task, feature)]
        assert found
        assert {span_text(feature) for feature in found} == {example.answers[0][0]}
    scores = task.evaluate(
        features, without_null_windows(task, features, perfect_outputs(features))
    )
    assert scores["em"] == scores["f1"] == 100.0
    assert scores["nll"] < 1e-3


def test_features_follow_the_tokenizer(tokenizer, short):
    features = short(tokenizer).features(EXAMPLES, training=False)
    assert [f.example for f in features] == sorted(
        (f.example for f in features), key=lambda e: e.id
    )
    for feature in features:
        assert len(feature) <= SHORT
        assert feature.input_ids.dtype == np.int32
        assert feature.token_type_ids.dtype == np.int8
        assert len(feature.token_type_ids) == len(feature.offsets) == len(feature)
        inside = feature.offsets[feature.offsets[:, 0] >= 0]
        assert len(inside)
        # Spans go forward and never begin with the space before a word.
        assert (np.diff(inside[:, 0]) >= 0).all()
        starts = inside[inside[:, 1] > inside[:, 0], 0]
        assert not any(CONTEXT[start].isspace() for start in starts)


def test_windows_cover_the_context_and_overlap(tiny_tokenizer, short):
    features = short(tiny_tokenizer).features(EXAMPLES[:1], training=False)
    whole = tiny_tokenizer(CONTEXT, add_special_tokens=False)["input_ids"]
    prefix = len(tiny_tokenizer(EXAMPLES[0].question)["input_ids"])
    parts = [feature.input_ids[prefix:-1].tolist() for feature in features]
    assert [token for part in parts[:1] for token in part] + [
        token for part in parts[1:] for token in part[12:]
    ] == whole


def test_windows_without_the_answer_target_the_null_position(tokenizer, short):
    task = short(tokenizer)
    features = task.features([EXAMPLES[4]], training=True)
    at_end = tokenizer.cls_token_id is not None and features[0].input_ids[0] != (
        tokenizer.cls_token_id
    )
    first = features[0]
    expected = len(first) - 1 if at_end else 0
    assert first.target == (expected, expected)
    assert features[-1].target[0] > 0


def test_impossible_questions_target_the_null_position(task):
    (feature,) = task.features([IMPOSSIBLE], training=True)
    assert feature.target == (0, 0)


def test_only_windows_with_the_answer_count_in_the_nll(tiny_tokenizer, short):
    task = short(tiny_tokenizer)
    features = task.features(EXAMPLES[3:4], training=False)
    kept = [number for number, f in enumerate(features) if not is_null(task, f)]
    assert 0 < len(kept) < len(features)
    outputs = [np.zeros((len(feature), 2), dtype=np.float32) for feature in features]
    expected = np.mean([np.log(len(features[number])) for number in kept])
    assert task.evaluate(features, outputs)["nll"] == pytest.approx(expected)


def test_answer_in_the_middle_of_a_word_takes_the_whole_token(task):
    example = replace(EXAMPLES[0], answers=(("esign", CONTEXT.index("esigned")),))
    (feature,) = task.features([example], training=True)
    assert span_text(feature) == "designed"


def test_spaces_around_an_answer_do_not_matter(tokenizer):
    task = QuestionAnswering(tokenizer)
    padded = replace(EXAMPLES[0], answers=((" Marie Holt", CONTEXT.index(" Marie Holt")),))
    plain, spaced = task.features([EXAMPLES[0], padded], training=True)
    assert plain.target == spaced.target


def test_characters_that_the_tokenizer_drops_at_the_edges(task):
    context = "\x00the river\x00"
    example = question("What?", "the river", context=context)
    example = replace(example, answers=((context, 0),))
    (feature,) = task.features([example], training=True)
    assert span_text(feature) == "the river"


def test_long_questions_are_cut_and_contexts_stay(tokenizer, short):
    long = replace(EXAMPLES[0], question="Who designed the bridge over the river? " * 40)
    task = short(tokenizer)
    features = task.features([long, EXAMPLES[1]], training=True)
    assert max(map(len, features)) <= SHORT
    own = [feature for feature in features if feature.example is long]
    for feature in own:
        outside = (feature.offsets[:, 0] < 0).sum()
        assert outside <= QUESTION + tokenizer.num_special_tokens_to_add(pair=True)
    assert "Marie Holt" in {span_text(feature) for feature in own if not is_null(task, feature)}


@pytest.mark.parametrize("tokens", [1, 3, 30])
def test_answers_equal_exhaustive_search(tiny_tokenizer, short, tokens, monkeypatch):
    monkeypatch.setattr(question_answering, "N_BEST", SHORT)
    monkeypatch.setattr(question_answering, "MAX_ANSWER_TOKENS", tokens)
    task = short(tiny_tokenizer)
    features = task.features(EXAMPLES, training=False)
    rng = np.random.default_rng(1)
    outputs = [rng.normal(size=(len(f), 2)).astype(np.float32) for f in features]
    for answer in task.answers(features, outputs):
        best, text, null = -np.inf, "", np.inf
        for feature, output in zip(features, outputs, strict=True):
            if feature.example is not answer.example:
                continue
            null = min(null, output[0].sum())
            inside = np.flatnonzero(feature.offsets[:, 0] >= 0)
            for start in inside:
                for end in inside[(inside >= start) & (inside < start + tokens)]:
                    score = output[start, 0] + output[end, 1]
                    if score > best:
                        span = feature.offsets[start, 0], feature.offsets[end, 1]
                        best, text = score, CONTEXT[slice(*span)]
        assert (answer.text, answer.score) == (text, pytest.approx(best))
        assert answer.null_score == pytest.approx(null)


def test_n_best_limits_the_search(task, monkeypatch):
    (feature,) = task.features(EXAMPLES[:1], training=False)
    output = np.zeros((len(feature), 2), dtype=np.float32)
    output[20, 0], output[10, 1] = 5, 5  # the best end lies before the best start
    (answer,) = task.answers([feature], [output])
    assert answer.text
    monkeypatch.setattr(question_answering, "N_BEST", 1)
    (answer,) = task.answers([feature], [output])
    assert answer.text == ""


def test_no_answer_is_given_where_it_scores_higher_than_the_best_answer(task):
    features = task.features([EXAMPLES[0], IMPOSSIBLE], training=False)
    outputs = perfect_outputs(features)
    assert task.evaluate(features, outputs)["em"] == 100.0
    for output, height, em in ((outputs[0], 1000.0, 50.0), (outputs[1], -1000.0, 0.0)):
        output[0] = height
        assert task.evaluate(features, outputs)["em"] == em


def test_no_answer_is_not_given_where_all_questions_have_one(task):
    features = task.features(EXAMPLES[:1], training=False)
    output = np.zeros((len(features[0]), 2), dtype=np.float32)
    output[0] = 50.0
    output[list(features[0].target), [0, 1]] = 10.0
    scores = task.evaluate(features, [output])
    assert scores["em"] == 100.0
    assert scores["exact_position"] == 0.0


def test_several_references_and_empty_contexts(task):
    several = replace(EXAMPLES[0], answers=(("Marie Holt", 123), ("Holt", 129)))
    empty = QuestionExample("7", "", "", "Who?", (), True)
    features = task.features([several, empty], training=False)
    outputs = perfect_outputs(features)
    holt = features[0].target[1]
    outputs[0][:, 0] = 0
    outputs[0][holt, 0] = 20
    assert task.evaluate(features, outputs)["em"] == 100.0


def test_what_is_accepted_beside_the_answers_counts_in_scoring_alone(task):
    listed = replace(EXAMPLES[0], accepted=("NYC", "Holt"))
    plain, more = (task.features([each], training=False) for each in (EXAMPLES[0], listed))
    assert [feature.target for feature in plain] == [feature.target for feature in more]
    output = perfect_outputs(plain)[0]
    output[:, 0] = 0
    output[plain[0].target[1], 0] = 20  # "Holt" alone
    assert [task.evaluate(features, [output])["em"] for features in (plain, more)] == [0, 100]


def packed(features, width=16):
    generator = torch.Generator().manual_seed(0)
    lengths = [len(feature) for feature in features]
    return torch.randn(sum(lengths), width, generator=generator, requires_grad=True), lengths


def test_loss_and_gradient_equal_one_feature_at_a_time(tiny_tokenizer, short):
    task = short(tiny_tokenizer)
    features = task.features([*EXAMPLES, IMPOSSIBLE], training=True)
    hidden, lengths = packed(features)
    torch.manual_seed(0)
    head = task.head(16)
    losses = []
    for states, feature in zip(hidden.split(lengths), features, strict=True):
        log_probabilities = torch.log_softmax(head(states), dim=0)
        losses.append(-(log_probabilities[list(feature.target), [0, 1]]).mean())
    expected = torch.stack(losses).mean()
    (expected_gradient,) = torch.autograd.grad(expected, hidden)
    loss = task.loss(head, hidden, lengths, features)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_predict_and_evaluate_agree_with_the_loss(task):
    features = task.features(EXAMPLES, training=True)
    hidden, lengths = packed(features)
    head = task.head(16)
    outputs = task.predict(head, hidden, lengths, features)
    assert [output.shape for output in outputs] == [(length, 2) for length in lengths]
    assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
    scores = task.evaluate(features, outputs)
    assert set(scores) == set(task.higher_is_better)
    loss = task.loss(head, hidden, lengths, features).item()
    assert scores["nll"] == pytest.approx(loss, rel=1e-5)


def test_head_starts_small_and_without_bias(task):
    head = task.head(4096)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.bias.any()


def test_bad_settings_and_data_are_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"stride is 128.*below 61"):
        QuestionAnswering(tiny_tokenizer, max_length=128)
    unanswered = replace(IMPOSSIBLE, is_impossible=False)
    with pytest.raises(ValueError, match="'9' has no answer"):
        QuestionAnswering(tiny_tokenizer).features([unanswered], training=False)


def test_padding_has_scores_of_its_own(tiny_masked_lm, tiny_tokenizer) -> None:
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    plain, same, padded, longer = (
        Scorer(lm, QuestionAnswering(tiny_tokenizer, length, 32, pad=pad)).fingerprint
        for length, pad in ((128, False), (128, False), (128, True), (130, True))
    )
    assert plain == same
    assert len({plain, padded, longer}) == 3


@pytest.mark.parametrize("pad", [False, True])
def test_loss_and_gradients_equal_the_library_s(pad, tiny_masked_lm, tiny_tokenizer) -> None:
    """The library's softmax runs over the padding; without it, over the input's own tokens."""
    stock = BertForQuestionAnswering(copy.deepcopy(tiny_masked_lm.config))
    stock.bert.load_state_dict(tiny_masked_lm.bert.state_dict())
    task = QuestionAnswering(tiny_tokenizer, 128, 32, pad=pad)
    features = task.features(EXAMPLES, training=True)
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    head = task.head(lm.width)
    stock.qa_outputs.load_state_dict(head.state_dict())

    hidden_TD = lm.hidden_states(
        [f.input_ids for f in features], [f.token_type_ids for f in features], pad_to=task.pad_to
    )
    lengths = [task.pad_to or len(f) for f in features]
    loss = task.loss(head, hidden_TD, lengths, features)
    loss.backward()

    block = np.zeros((3, len(features), 128), dtype=np.int64)
    block[0] = tiny_tokenizer.pad_token_id
    for row, feature in enumerate(features):
        rows = (feature.input_ids, feature.token_type_ids, np.ones(len(feature)))
        block[:, row, : len(feature)] = rows
    ids, types, real = torch.from_numpy(block)
    starts, ends = torch.tensor([f.target for f in features]).T
    output = stock.eval()(
        ids,
        attention_mask=real,
        token_type_ids=types,
        start_positions=starts,
        end_positions=ends,
    )
    expected = output.loss
    if not pad:
        nothing = torch.where(real.bool(), 0.0, -torch.inf)
        expected = sum(
            torch.nn.functional.cross_entropy(logits + nothing, target) / 2
            for logits, target in ((output.start_logits, starts), (output.end_logits, ends))
        )
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(head.weight.grad, stock.qa_outputs.weight.grad, rtol=1e-4, atol=1e-6)
    ours = dict(lm.model.bert.named_parameters())
    for name, parameter in stock.bert.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    scores = task.evaluate(features, task.predict(head, hidden_TD, lengths, features))
    assert np.isclose(scores["nll"], loss.item(), rtol=1e-5)
