"""The fast path against the plain one: the same states, losses and gradients, without padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from envs.models import attention
from envs.models.attention import packed_attention
from envs.models.flat import descend
from envs.models.language_model import LanguageModel
from envs.models.loading import load_language_model
from envs.models.states import TokenStates

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
PACKING = {
    "Bert": {},
    "Albert": {"embedding_size": 16},
    "Electra": {"embedding_size": 16},
    "Roberta": {"pad_token_id": 1},
    "XLMRoberta": {"pad_token_id": 1},
    "Camembert": {"pad_token_id": 1},
    "Data2VecText": {"pad_token_id": 1},
    "Ernie": {},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "ModernBert": {
        "local_attention": 8,  # shorter than the sequences
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
}
JOINING = {*PACKING} - {"Albert", "DistilBert", "ModernBert"}
PADDED = {
    "DebertaV2": {},
    "ConvBert": {},
    "MPNet": {},
    "FNet": {},
    "RoFormer": {"embedding_size": 32},
    "BigBird": {"attention_type": "original_full"},
}
LENGTHS = (9, 17, 4, 30)


def build(architecture: str, tokenizer, **options) -> tuple[LanguageModel, torch.nn.Module]:
    """The same weights twice: as our language model and as the library's, untouched."""
    config_class = getattr(transformers, f"{architecture}Config")
    common = {} if architecture == "DistilBert" else SMALL
    quiet = {"dropout": 0.0, "attention_dropout": 0.0} if architecture == "DistilBert" else {}
    config = config_class(**common, **quiet, **options, vocab_size=len(tokenizer))
    if config.pad_token_id is None:
        config.pad_token_id = 0
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    # A copy of the configuration: the attention in use is written into it.
    config = copy.deepcopy(config)
    plain = transformers.AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    return LanguageModel(architecture, model, tokenizer), plain.train()


def batch(vocab_size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(5, vocab_size, n) for n in LENGTHS]
    labels = [
        np.where(rng.random(n) < 0.3, s, -100) for n, s in zip(LENGTHS, sequences, strict=True)
    ]
    return sequences, labels


def plain_loss(plain, sequences, labels) -> torch.Tensor:
    """What a user of the library writes: pad, attend with a mask, labels everywhere."""
    shape = (len(sequences), max(LENGTHS))
    ids = torch.full(shape, plain.config.pad_token_id)
    target, real = torch.full(shape, -100), torch.zeros(shape, dtype=torch.long)
    for row, (sequence, label) in enumerate(zip(sequences, labels, strict=True)):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
        target[row, : len(sequence)] = torch.from_numpy(label)
        real[row, : len(sequence)] = 1
    return plain(input_ids=ids, attention_mask=real, labels=target).loss


def our_loss(lm, sequences, labels) -> torch.Tensor:
    label_T = np.concatenate(labels)
    positions = np.flatnonzero(label_T != -100)
    return lm.masked_losses(sequences, positions, label_T[positions]).mean()


@pytest.mark.parametrize("architecture", PACKING)
def test_attention_as_on_a_gpu_equals_the_library_s(
    architecture, tiny_tokenizer, as_on_a_gpu
) -> None:
    # The library's attention for jagged tensors knows no windows.
    check_loss_and_gradients(architecture, tiny_tokenizer, packs=architecture != "ModernBert")


def test_what_cannot_be_trained_packed_on_a_gpu_is_padded(
    tiny_tokenizer, as_on_a_gpu, monkeypatch
) -> None:
    original = attention._jagged_attention

    def fails_backward(query, *others):
        output = original(query, *others)
        if output.requires_grad:
            output.register_hook(lambda grad: torch.zeros(1) @ torch.zeros(2))
        return output

    monkeypatch.setattr(attention, "_jagged_attention", fails_backward)
    lm, _ = build("Bert", tiny_tokenizer)
    assert not lm.packs
    assert not lm.flat.grad.any()
    check_loss_and_gradients("Bert", tiny_tokenizer, packs=False)


@pytest.mark.parametrize("architecture", [*PACKING, *PADDED])
def test_loss_and_gradients_equal_the_library_s(architecture, tiny_tokenizer) -> None:
    check_loss_and_gradients(architecture, tiny_tokenizer, packs=architecture in PACKING)


def check_loss_and_gradients(architecture: str, tiny_tokenizer, packs: bool = True) -> None:
    lm, plain = build(architecture, tiny_tokenizer, **{**PACKING, **PADDED}[architecture])
    assert lm.packs == packs
    assert lm.sparse_head
    assert (lm.join is not None) == (packs and architecture in JOINING)
    lm.model.train()
    sequences, labels = batch(len(tiny_tokenizer))

    expected, got = plain_loss(plain, sequences, labels), our_loss(lm, sequences, labels)
    expected.backward()
    got.backward()

    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = dict(lm.model.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is None:
            continue
        # The plain path also passes a gradient to [PAD]'s embedding or not, by library: skip it.
        a, b = parameter.grad.clone(), ours[name].grad.clone()
        if "word_embeddings" in name or "tok_embeddings" in name:
            a[plain.config.pad_token_id] = b[plain.config.pad_token_id] = 0
        assert torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(a) + 1e-7, name


def test_many_short_sequences_are_attended_as_one_block(tiny_tokenizer) -> None:
    lm, plain = build("Bert", tiny_tokenizer)
    sequences = [np.arange(5, 5 + n) for n in (3, 8, 2, 5, 8)]
    lm.model.eval()
    plain.eval()
    with torch.no_grad():
        got = lm.hidden_states(sequences)
        alone = torch.cat([plain.bert(torch.from_numpy(s)[None])[0][0] for s in sequences])
    torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-5)


def test_token_types_reach_the_model(tiny_tokenizer) -> None:
    lm, plain = build("Bert", tiny_tokenizer)
    sequences = [np.arange(5, 15), np.arange(5, 9)]
    types = [np.arange(10) // 5, np.zeros(4, dtype=np.int8)]
    lm.model.eval()
    plain.eval()
    with torch.no_grad():
        got = lm.hidden_states(sequences, types)
        expected = plain.bert(
            torch.from_numpy(sequences[0])[None], token_type_ids=torch.from_numpy(types[0])[None]
        )[0][0]
    torch.testing.assert_close(got[:10], expected, rtol=1e-4, atol=1e-5)


def test_restore_puts_every_weight_back(tiny_masked_lm, tiny_tokenizer) -> None:
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    before, print_before = lm.snapshot(), lm.fingerprint
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(1.0)
    assert lm.fingerprint != print_before
    lm.restore(before)
    assert lm.fingerprint == print_before
    assert torch.equal(next(lm.model.parameters()).reshape(-1), before[: 32 * lm.vocab_size])


def test_saved_model_loads_the_same_from_its_folder(
    tmp_path, tiny_masked_lm, tiny_tokenizer
) -> None:
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    lm.save(tmp_path / "lm")
    again = load_language_model(str(tmp_path / "lm"))
    assert again.fingerprint == lm.fingerprint
    assert again.packs


def test_states_are_cached_by_context_and_padded_with_zeros(tiny_masked_lm, tiny_tokenizer) -> None:
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    provider = TokenStates(lm)
    ids = np.array([[5, 6, 7, 0], [8, 9, 0, 0]], dtype=np.int32)
    real = (ids > 0).astype(np.int8)
    first = provider(ids, real, np.array([3, 4]))
    assert first.shape == (2, 4, 64)
    assert provider.width == 64
    assert not first[1, 2:].any()
    lm.model.train()  # its dropout is none of the states'
    np.testing.assert_array_equal(TokenStates(lm)(ids, real, np.array([3, 4])), first)
    assert lm.model.training
    np.testing.assert_allclose(first[0, :3, :32], lm.embeddings(ids[0, :3]).detach().numpy())
    with torch.no_grad():
        lm.flat.weights.zero_()
    np.testing.assert_array_equal(provider(ids, real, np.array([3, 4]))[..., 32:], first[..., 32:])
    provider.forget()
    assert not np.array_equal(provider(ids, real, np.array([3, 4]))[..., 32:], first[..., 32:])


def test_no_more_states_are_remembered_than_may_be(tiny_masked_lm, tiny_tokenizer) -> None:
    lm = LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)
    ids = np.arange(5, 45, dtype=np.int32).reshape(10, 4)
    every = TokenStates(lm)(ids, np.ones_like(ids), np.arange(10))
    provider = TokenStates(lm, cache=3 * 4 * 32 * 4)  # three contexts of four tokens
    computed = []
    compute = provider._compute
    provider._compute = lambda some: computed.append(len(some)) or compute(some)
    for rows in ([0, 1, 2], [2, 1], [3], [2, 1, 0], range(10), [9, 8, 7]):
        rows = list(rows)
        got = provider(ids[rows], np.ones((len(rows), 4)), np.array(rows))
        np.testing.assert_allclose(got, every[rows], atol=1e-6)
    # The fourth context took the place of the first, which was used least lately.
    assert computed == [3, 0, 1, 1, 7, 0]


def test_states_of_a_padded_model_do_not_depend_on_the_batch(tiny_tokenizer) -> None:
    lm, _ = build("DebertaV2", tiny_tokenizer, **PADDED["DebertaV2"])
    assert not lm.packs
    sequences, _ = batch(lm.vocab_size)
    length = max(LENGTHS)
    ids_BL = np.stack([np.pad(s, (0, length - len(s))) for s in sequences])
    real_BL = np.arange(length) < np.array(LENGTHS)[:, None]
    number_B = np.arange(len(LENGTHS))
    whole = TokenStates(lm)(ids_BL, real_BL, number_B)
    for row in number_B:
        one = slice(row, row + 1)
        alone = TokenStates(lm)(ids_BL[one], real_BL[one], number_B[one])
        assert np.array_equal(alone[0], whole[row])


def test_contexts_that_share_an_id_keep_their_own_states(tiny_masked_lm, tiny_tokenizer) -> None:
    states = TokenStates(LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer))
    real_1L, id_1 = np.ones((1, 4), np.int8), np.array([7])
    first, second = np.array([[2, 9, 10, 3]]), np.array([[2, 11, 12, 3]])
    expected = states(second, real_1L, np.array([8]))
    states(first, real_1L, id_1)
    assert np.array_equal(states(second, real_1L, id_1), expected)


def test_fewer_heads_of_keys_than_of_queries_are_not_packed() -> None:
    query, key = torch.zeros(1, 4, 6, 8), torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="as many heads"):
        packed_attention(torch.nn.Identity(), query, key, key, None)


def test_a_model_that_scales_a_row_by_its_mask_tokens_is_padded(tiny_tokenizer) -> None:
    for scales in (False, True):
        config = transformers.EsmConfig(
            **SMALL,
            vocab_size=len(tiny_tokenizer),
            pad_token_id=tiny_tokenizer.pad_token_id,
            mask_token_id=tiny_tokenizer.mask_token_id,
            token_dropout=scales,
            position_embedding_type="absolute",
        )
        model = transformers.EsmForMaskedLM(config)
        assert LanguageModel("esm", model, tiny_tokenizer).packs is not scales


def test_what_is_frozen_does_not_decay(tiny_tokenizer) -> None:
    lm, _ = build("RoFormer", tiny_tokenizer, **PADDED["RoFormer"])
    frozen = [p for p in lm.model.parameters() if not p.requires_grad]
    assert frozen
    before, weights = [p.clone() for p in frozen], lm.snapshot()
    optimizer = lm.flat.adamw(1e-2, weight_decay=0.1)
    sequences, labels = batch(lm.vocab_size)
    descend(lm.flat, optimizer, our_loss(lm, sequences, labels), 1.0)
    assert all(map(torch.equal, frozen, before))
    assert not torch.equal(lm.snapshot(), weights)


def test_a_model_too_short_for_a_text_says_so(tiny_tokenizer) -> None:
    lm, _ = build("Bert", tiny_tokenizer)
    assert lm.window(10**6) == lm.max_length - 2
    assert lm.window(5) == 5
    with pytest.raises(ValueError, match="window is 0"):
        lm.window(0)
    lm.model.config.max_position_embeddings = 2
    with pytest.raises(ValueError, match="leaves no room"):
        lm.window(5)
