"""Policies learned in one setting of the testbed, judged in others without training there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from agents.actor_critic import MaskingActorCritic
from learning_parts.field import Field
from nmg.statistics import t_interval


def transfer(folder: Path, source: str, row: str, settings: Sequence[str], deals: int) -> str:
    """Judge the saved policies of a row; remember what came out in ``transfer-ROW.json``.

    Args:
        folder: of the results.
        source: setting that the policies were learned in.
        row: whose policies.
        settings: to judge them in; they must share the language model of the source.
        deals: held-out domains of each.
    """
    paths = sorted(folder.glob(f"{source}-{row}-*-policy"))
    lines = [f"learned in {source}, row {row}, {len(paths)} seeds; {deals} held-out domains each"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for setting in settings:
        field = Field(setting, deals, folder)
        found[setting] = {}
        for path in paths:
            loaded = MaskingActorCritic.load(path, token_features=field.held_out.states)
            seed = re.sub(r".*-(\d+)-policy", r"\1", path.name)
            found[setting][seed] = {
                "informative": field.informative(loaded.policy),
                "closed": field.closed(loaded.policy),
            }
        lines.append(_line(setting, field, [*found[setting].values()]))
    aside = folder / f"transfer-{row}.json"
    aside.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return "\n".join(lines)


def _line(setting: str, field: Field, runs: Sequence[dict[str, float]]) -> str:
    closed = [run["closed"] for run in runs]
    low, high = t_interval(closed)
    random, best = field.reference
    by_seed = ", ".join(f"{value:.0%}" for value in closed)
    words = ", ".join(f"{run['informative']:.2f}" for run in runs)
    return (
        f"  {setting}: closed {sum(closed) / len(closed):.0%} [{low:.0%}, {high:.0%}] of "
        f"{(random - best).mean():.3f} nats; by seed {by_seed}; informative {words} "
        f"(chance {field.settings.informative_share:.2f})"
    )
