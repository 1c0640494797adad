"""What fine-tuning for generation minimises: the loss of the target, or an objective of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import PairFeature


class Objective(Protocol):
    """What fine-tuning minimises, and what the decoder then looks at.

    An objective may hold modules of its own (an ``nn.Module``); they are trained with the model
    and, as the model, start anew in every job.
    """

    def loss(self, features: Sequence[PairFeature]) -> Tensor:
        """A scalar, the mean over the batch."""
        ...

    def inputs(self, features: Sequence[PairFeature]) -> Mapping[str, Any]:
        """The model's own arguments besides the decoder's: sources, or encoder outputs."""
        ...


class MakesObjective(Protocol):
    """Makes an objective for the model, once a fine-tuning run; the weights of its modules come
    from torch's global generator."""

    fingerprint: str
    """Of its settings, and of the weights that it reads besides the model's; short."""

    def __call__(self, model: Seq2SeqModel) -> Objective: ...


class Translation(nn.Module):
    """Label-smoothed cross-entropy of the target's tokens.

    Args:
        model: trained in place.
        smoothing: share of the probability spread over the vocabulary.
    """

    def __init__(self, model: Seq2SeqModel, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = (model,), smoothing  # a tuple: not a submodule

    def loss(self, features: Sequence[PairFeature]) -> Tensor:
        return self.target_loss(self.inputs(features), features)

    def target_loss(self, inputs: Mapping[str, Any], features: Sequence[PairFeature]) -> Tensor:
        """The loss when the decoder works from these inputs."""
        return target_losses(self.model[0], inputs, features, self.smoothing).mean()

    def inputs(self, features: Sequence[PairFeature]) -> Mapping[str, Any]:
        return self.model[0].sources([feature.source_ids for feature in features])

    def autocast(self) -> Any:
        """In which the model computes."""
        return self.model[0].autocast()


def target_losses(
    model: Seq2SeqModel,
    inputs: Mapping[str, Any],
    features: Sequence[PairFeature],
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each target token given those before it, feature by feature, (N,)."""
    targets = [feature.target_ids for feature in features]
    return model.token_losses(inputs, list(map(model.shifted, targets)), targets, smoothing)
