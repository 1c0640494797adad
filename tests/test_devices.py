"""That a step keeps to the model's device and waits for none of its values, tried without a GPU.

PyTorch's device "meta" has shapes and no numbers: it refuses tensors of another device, as a GPU
does, and to be asked for a value, for which a GPU would be waited for.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from masking_toy import ToyMasking, TypeStates

from agents.actor_critic import MaskingActorCritic
from agents.adversarial import AdversarialMasking
from envs.adaptation.jobs import AdaptationSettings, ScoreJob
from envs.adaptation.scorer import Scorer
from envs.further_pretraining import PretrainingSettings, further_pretrain
from envs.models.dropout import use_fast_dropout
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.new_model import ModelSize, new_model
from envs.models.new_tokenizer import train_tokenizer
from envs.models.prepare import PreparationSettings, train_masked_lm
from envs.models.seeding import forked, seed_torch
from envs.models.seq2seq import _fast_functional_dropout
from envs.references import UniformRandom, reference_masks
from envs.tasks.classification import Classification
from envs.tasks.question_answering import QuestionAnswering
from envs.tasks.task import Feature
from envs.testbed.domain import Vocabulary
from envs.testbed.language_model import train_language_model
from envs.testbed.settings import LanguageSettings
from envs.text.corpus import build_corpus
from envs.text.examples import TextExample
from tests.conftest import SENTENCES

LENGTHS = (9, 17, 4)


def test_networks_are_seeded_without_the_generators_of_gpus(monkeypatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)
    AdversarialMasking(20)
    MaskingActorCritic(ToyMasking(), token_features=TypeStates(), device="cpu")
    assert not seeded


def test_a_reference_s_draws_leave_the_generators_of_gpus_as_they_were(monkeypatch) -> None:
    back = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: f"of {device}")
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda *given: back.append(given))
    ones = np.ones((1, 3), np.int8)
    reference_masks(UniformRandom(), {"maskable": ones, "budget": ones[:, :1]}, seed=1)
    assert back == [("of 0", 0), ("of 1", 1)]


@pytest.fixture
def gpus(monkeypatch) -> dict[int, str]:
    """The states of the generators of two GPUs, in use, of which the first is the current one."""
    states, current = {0: "of 0", 1: "of 1"}, [0]

    @contextmanager
    def device(where):
        current.append(torch.device(where).index)
        yield
        current.pop()

    def index(where) -> int:
        return where if isinstance(where, int) else torch.device(where).index

    cuda = {
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "device": device,
        "get_rng_state": lambda where: states[index(where)],
        "set_rng_state": lambda state, where: states.update({index(where): state}),
        "manual_seed": lambda seed: states.update({current[-1]: f"seeded {seed}"}),
        "manual_seed_all": lambda seed: states.update(dict.fromkeys(states, f"seeded {seed}")),
    }
    for name, fake in cuda.items():
        monkeypatch.setattr(f"torch.cuda.{name}", fake)
    return states


def test_a_gpu_is_seeded_by_itself_and_put_back(gpus) -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    before, state = dict(gpus), torch.get_rng_state()
    with forked("cuda:1"):
        seed_torch(5, "cuda:1")
        assert gpus == before | {1: "seeded 5"}
        assert torch.equal(torch.rand(3), expected)
    assert gpus == before
    assert torch.equal(torch.get_rng_state(), state)


def load(lm, folder):
    lm.save(folder)
    load_language_model(str(folder))


def make(lm, folder):
    new_model("bert", "masked", lm.tokenizer, ModelSize(width=16, layers=1, heads=2, length=64))


def run_a_job(lm, folder):
    task = Classification(lm.tokenizer, ["x", "y"])
    examples = [TextExample(id=x, text=f"the {x}", label=x) for x in "xy"]
    features = task.features(examples, training=True)
    contexts = build_corpus(SENTENCES, lm.tokenizer, 64).contexts
    masks = [context.maskable for context in contexts]
    Scorer(lm, task)(ScoreJob(contexts, masks, features, features, AdaptationSettings(), 0))


def adapt(lm, folder):
    corpus = build_corpus(SENTENCES, lm.tokenizer, 64)
    further_pretrain(lm, corpus, UniformRandom(), PretrainingSettings(epochs=1))


def make_the_testbed_s(lm, folder):
    train_language_model(Vocabulary(LanguageSettings(steps=20, batch=2)))


def prepare(lm, folder):
    settings = PreparationSettings(steps=2, head_steps=1)
    train_masked_lm(lm, build_corpus(SENTENCES, lm.tokenizer, 64), settings, lambda *_: None)


@pytest.mark.parametrize("program", [load, make, run_a_job, adapt, prepare, make_the_testbed_s])
def test_what_runs_on_the_cpu_leaves_the_generators_as_they_were(
    program, tiny_masked_lm, tiny_tokenizer, tmp_path, gpus
) -> None:
    lm, before = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer), torch.get_rng_state()
    program(lm, tmp_path)
    assert gpus == {0: "of 0", 1: "of 1"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def lm(tiny_masked_lm, tiny_tokenizer, monkeypatch) -> LanguageModel:
    """Packed, on the device "meta", where nothing can be tried and jagged attention is unknown."""
    join = tiny_masked_lm.bert.encoder.layer[-1].attention.output
    for probe, finding in (("width", 32), ("packing", True), ("head", True), ("join", join)):
        monkeypatch.setattr(f"envs.models.language_model.probe_{probe}", lambda *_, f=finding: f)
    monkeypatch.setattr("envs.models.attention._jagged_attention", lambda q, k, v, *_: q + k + v)
    model = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer, device="meta", precision="fp32")
    model.model.set_attn_implementation("nmg_packed")
    model.model.train()
    return model


def sequences(vocab_size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, vocab_size, n) for n in LENGTHS]


def test_further_pretraining(lm) -> None:
    ids = sequences(lm.vocab_size)
    losses = lm.masked_losses(ids, np.array([1, 12, 20]), np.array([6, 7, 8]))
    losses.mean().backward()
    assert losses.shape == (3,)
    assert losses.device == lm.flat.grad.device == torch.device("meta")


@pytest.mark.parametrize("kind", ["qa", "classification"])
def test_fine_tuning(lm, kind) -> None:
    ids = sequences(lm.vocab_size)
    example = TextExample(id="0", text="a", label="x")
    task = (
        QuestionAnswering(lm.tokenizer)
        if kind == "qa"
        else Classification(lm.tokenizer, ["x", "y", "z"])
    )
    features = [Feature(s, np.zeros(len(s), np.int8), (1, 2), example) for s in ids]
    head = task.head(lm.width).to(lm.device)
    with lm.trained(ids):
        if kind == "qa":
            hidden_TD, lengths = lm.hidden_states(ids), LENGTHS
        else:
            hidden_TD, lengths = lm.states_at(ids, np.array([0, 9, 26])), (1, 1, 1)
        loss = task.loss(head, hidden_TD, lengths, features)
        loss.backward()
    assert loss.shape == ()
    assert loss.device == torch.device("meta")


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_dropout_of_sequence_to_sequence_models(name) -> None:
    """BART's layers call ``F.dropout``, T5's are modules."""
    tokenizer = train_tokenizer(SENTENCES, "bpe", vocab_size=330, max_length=64)
    model = new_model(name, "seq2seq", tokenizer, ModelSize(width=16, layers=1, heads=2, length=64))
    use_fast_dropout(model)
    model.to("meta").train()
    model.set_attn_implementation("eager")  # the fused kernel's mask asks for a value
    ids = torch.full((2, 9), 7, device="meta")
    with _fast_functional_dropout():
        logits = model(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits
    assert logits.shape == (2, 9, len(tokenizer))
    assert logits.device == torch.device("meta")
