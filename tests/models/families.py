"""One small model of the family for each head, with ids, features and time or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from evercurrent.models.adaptive import Adaptive, Ranking
from evercurrent.models.knowledge_tracing import KnowledgeTracing

SMALL: dict[str, Any] = {"state_size": 12, "embedding_size": 8}

FAMILY: dict[str, Callable[[], Adaptive]] = {
    "knowledge-tracing": lambda: KnowledgeTracing(num_items=40, num_skills=7, hidden_size=5, **SMALL),
    "bernoulli of features and time": lambda: Adaptive(
        {}, ("a", "b", "c"), hidden_size=5, uses_time=True, writes=True, **SMALL
    ),
    "bernoulli of ids, features and time": lambda: Adaptive(
        {"place": 6, "kind": 3}, ("a", "b"), hidden_size=5, uses_time=True, **SMALL
    ),
    "categorical": lambda: Adaptive({"two before": 9, "before": 5}, (), "categorical", 3, hidden_size=5, **SMALL),
    "gaussian of ids, features and time": lambda: Adaptive(
        {"place": 6}, ("a", "b"), "gaussian", hidden_size=4, uses_time=True, **SMALL
    ),
    "ranking": lambda: Ranking({"item": 30}, num_anchors=7, **SMALL),
    "ranking with time": lambda: Ranking({"item": 30}, num_anchors=7, uses_time=True, writes=True, **SMALL),
}


def untrained(name: str, seed: int = 5) -> Adaptive:
    """As training begins with it, ready to serve."""
    model = FAMILY[name]()
    model.initialise(torch.Generator().manual_seed(seed))
    return model.eval().requires_grad_(False)


def drawn_at_large(name: str, seed: int) -> Adaptive:
    """Every weight drawn at large, so that no term of the gradient is near zero."""
    generator = torch.Generator().manual_seed(seed)
    model = FAMILY[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
        model.forget_log_S.sub_(3.0)
    return model.eval().requires_grad_(False)
