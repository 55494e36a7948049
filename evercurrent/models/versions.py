"""A model as a version that can be registered: its weights as bytes, and what is told of it (models.proto)."""

from __future__ import annotations

import hashlib

from evercurrent.describe import describe
from evercurrent.model import Model
from evercurrent.models.loading import class_path, config_text, dump_model
from evercurrent.v1.models_pb2 import ModelVersion, StateTensor


def version_of(model: Model, version: str, who: str, why: str, now_us: int) -> tuple[ModelVersion, bytes]:
    """The manifest and the weights of a model under this version's name."""
    weights = dump_model(model)
    manifest = ModelVersion(
        version=version,
        class_path=class_path(type(model)),
        config=config_text(model),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_bytes=len(weights),
        description=describe(model),
        state=[StateTensor(name=name, shape=shape) for name, shape in model.state_shapes.items()],
        pushed_us=now_us,
        who=who,
        why=why,
    )
    return manifest, weights
