"""Knowledge tracing: will this learner answer this item right? The first use of the family, with a simulator."""

from evercurrent.models.knowledge_tracing.data import read_log
from evercurrent.models.knowledge_tracing.model import KnowledgeTracing
from evercurrent.models.knowledge_tracing.simulator import World, default_world, simulate
from evercurrent.models.knowledge_tracing.training import train

__all__ = ["KnowledgeTracing", "World", "default_world", "read_log", "simulate", "train"]
