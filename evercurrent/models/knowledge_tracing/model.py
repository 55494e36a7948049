"""Knowledge tracing: the family with an item and its skill for ids and a right answer for an outcome."""

from __future__ import annotations

from typing import ClassVar

from evercurrent.models.adaptive.model import Adaptive


class KnowledgeTracing(Adaptive):
    """Predicts whether a learner answers an item right, and learns from each answer.

    Ids are rows of the two embedding tables; row 0 (UNKNOWN) of each stands for everything that was not in training.
    """

    name: ClassVar[str] = "knowledge-tracing"

    def __init__(
        self, num_items: int, num_skills: int, state_size: int = 32, embedding_size: int = 32, hidden_size: int = 16
    ) -> None:
        super().__init__(
            {"item": num_items, "skill": num_skills},
            state_size=state_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
        )

    def config(self) -> dict[str, object]:
        num_items, num_skills = (field.size for field in self.observation.ids)
        return {
            "num_items": num_items,
            "num_skills": num_skills,
            "state_size": self.state_size,
            "embedding_size": self.embedding_size,
            "hidden_size": self.hidden_size,
        }
