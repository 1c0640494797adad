"""How unsure a language model is of a token, against the library's model by itself."""

import numpy as np
import pytest
import torch

from agents.strategies import make_strategy
from envs.models.entropy import PredictionEntropy
from envs.models.language_model import LanguageModel
from envs.spaces import pad_contexts
from envs.text.corpus import build_corpus
from tests.conftest import SENTENCES


@pytest.fixture
def model(tiny_masked_lm, tiny_tokenizer):
    return LanguageModel("tiny", tiny_masked_lm, tiny_tokenizer)


@pytest.fixture
def observation(tiny_tokenizer):
    contexts = build_corpus(SENTENCES, tiny_tokenizer, 30).contexts[:3]
    ids = np.arange(3, dtype=np.int32)
    return pad_contexts(contexts, ids, tiny_tokenizer, budget=0.2)


def test_it_is_the_entropy_of_the_library_s_prediction(model, observation, tiny_masked_lm):
    model.model.train()
    found_BL = PredictionEntropy(model)(observation)
    assert model.model.training
    model.model.eval()
    for row, real_L in enumerate(observation["attention_mask"].astype(bool)):
        ids = torch.as_tensor(observation["input_ids"][row][real_L], dtype=torch.long)[None]
        with torch.no_grad(), model.unpacked():
            logits_NV = tiny_masked_lm(ids).logits[0].double()
        log_p = logits_NV.log_softmax(-1)
        assert found_BL[row][real_L] == pytest.approx(-(log_p.exp() * log_p).sum(-1), rel=1e-5)
        assert not found_BL[row][~real_L].any()


def test_the_strategy_masks_where_the_model_is_least_sure(model, observation):
    entropy = PredictionEntropy(model)
    masks_BL, _ = make_strategy("entropy", entropy=entropy).predict(observation)
    for mask_L, score_L, maskable_L, budget in zip(
        masks_BL.astype(bool),
        entropy(observation),
        observation["maskable"].astype(bool),
        observation["budget"].reshape(-1),
        strict=True,
    ):
        assert mask_L.sum() == budget
        assert score_L[mask_L].min() >= score_L[maskable_L & ~mask_L].max()


def test_one_context_gets_what_it_gets_in_a_batch(model, observation):
    entropy = PredictionEntropy(model)
    one = {name: values[1] for name, values in observation.items()}
    np.testing.assert_array_equal(entropy(one), entropy(observation)[1])
