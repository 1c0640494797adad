"""Shared fixtures: tiny tokenizers and a tiny masked LM, made on the spot, no network."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from envs.models.native import library
from envs.models.native.library import INSTRUCTION_SETS

torch.set_num_threads(1)

SENTENCES = (
    "The river rises in the northern hills and flows south to the sea.",
    "In 1902 the town of Arden built a bridge over the river.",
    "Marie Holt, an engineer from Arden, designed the bridge in three months.",
    "The protein binds the receptor and inhibits the growth of the cell.",
    "We compare our method with earlier work on the same data set.",
    "Who designed the bridge? When was it built? Where does the river flow?",
    "A positive review: the film is good, the music is great, the end is sad.",
)
"""Plain English that the tiny tokenizers were made for."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _wordpiece_vocab() -> dict[str, int]:
    """Special tokens, every ASCII letter and digit whole and as a continuation, some words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    pieces += [*".,;:?!'\"()-%$&/", "##ed", "##s", "##ing", "##er", "##ly"]
    words = BertTokenizerFast(vocab={"[UNK]": 0}).backend_tokenizer
    for sentence in SENTENCES:
        text = words.normalizer.normalize_str(sentence)
        pieces += [word for word, _ in words.pre_tokenizer.pre_tokenize_str(text)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


@pytest.fixture(autouse=True, scope="session")
def _logs_of_learners(tmp_path_factory):
    """Stable-Baselines3 leaves a folder in the system's for each learner that has no logger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("learners")))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BertTokenizerFast:
    """A WordPiece tokenizer (lower case) that splits unknown words into letters."""
    return BertTokenizerFast(vocab=_wordpiece_vocab(), model_max_length=512)


@pytest.fixture(scope="session")
def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with RoBERTa's special tokens and post-processing."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    # Like RoBERTa: no trimming here, so that offsets may hold the leading space of a word.
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture
def tiny_masked_lm(tiny_tokenizer: BertTokenizerFast) -> BertForMaskedLM:
    """BERT, 2 layers of width 32, random weights from a fixed seed; fresh for every test."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForMaskedLM(config).eval()


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    """The attention that a GPU takes; the library has it on CPUs, too."""
    for module in ("attention", "batches", "probes"):
        monkeypatch.setattr(f"envs.models.{module}.takes_jagged", lambda device: True)


@pytest.fixture
def without_c(monkeypatch):
    """A function after which torch's operations compute everything."""

    def forget() -> None:
        library.library.cache_clear()
        library.instruction_set.cache_clear()

    def switch_off() -> None:
        monkeypatch.setenv("NMG_NATIVE", "0")
        forget()

    yield switch_off
    monkeypatch.undo()
    forget()


@pytest.fixture(params=["torch", *INSTRUCTION_SETS])
def each_path(request, monkeypatch, without_c) -> None:
    """What computes: torch's operations, or C with each instruction set there is here."""
    if request.param == "torch":
        without_c()
        return
    best, number = library.instruction_set(), INSTRUCTION_SETS.index(request.param)
    if best is None or number > INSTRUCTION_SETS.index(best):
        pytest.skip(f"no C compiler, or no {request.param}")
    for module in ("attention", "layers"):
        monkeypatch.setattr(f"envs.models.native.{module}.set_number", lambda: number)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Size of the error over the size of what is expected."""
    return float(((got.float() - expected).norm() / expected.norm()).detach())
