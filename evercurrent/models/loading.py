"""Finds a model by name or by `module:Class`, loads its weights, saves them.

Weights are one safetensors file whose metadata says which class they belong to and how to build it:
`{"model": "module:Class", "config": <json of Model.config()>}`. Reading weights runs no code of the file.
Finding a model imports its module, so a spec is trusted as a program's own arguments are.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, contiguous_format

from evercurrent.model import Model

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Shipped:
    class_path: str
    weights: Path


_SHIPPED = {
    "knowledge-tracing": _Shipped(
        class_path="evercurrent.models.knowledge_tracing.model:KnowledgeTracing",
        weights=_HERE / "knowledge_tracing" / "default.safetensors",
    )
}

MODEL_NAMES = tuple(_SHIPPED)
"""The models of ours that `load_model` knows by name."""


class ModelLoadError(ValueError):
    """A model cannot be loaded or saved. The text says why and what to do."""


def load_model(spec: str, weights: Path | None = None, search_path: Path | None = None) -> Model:
    """The model that `spec` names, ready to serve: in eval mode, its parameters without gradients.

    `spec` is one of MODEL_NAMES, which come with weights of their own, or `module:Class`. Modules are looked for on
    `sys.path`, to whose end `search_path` (by default the working directory) is added. A class without weights is built
    without arguments; weights bring the arguments that they were saved with. Raises ModelLoadError.
    """
    shipped = _SHIPPED.get(spec)
    _append_search_path(search_path or Path.cwd())
    model_class = _find_class(shipped.class_path if shipped else spec)
    file = weights or (shipped.weights if shipped else None)
    model = _build(model_class, {}) if file is None else _fill(model_class, *_read_weights(file), str(file))
    return model.eval().requires_grad_(False)


def save_model(model: Model, path: Path) -> None:
    """Writes the model's weights and how to build it again. The file appears whole or not at all."""
    model_class = type(model)
    if model_class.__module__ == "__main__":
        raise ModelLoadError(
            f"{model_class.__qualname__} is defined in the program itself, where nothing could find it again: "
            "move it to a module"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(dump_model(model))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def dump_model(model: Model) -> bytes:
    """The model's weights and how to build it again, as a safetensors file: the same bytes for the same model.

    Tensors that share memory, as tied weights do, are written one by one. Raises ModelLoadError.
    """
    metadata = {"model": class_path(type(model)), "config": config_text(model)}
    copies = {name: tensor.clone(memory_format=contiguous_format) for name, tensor in model.state_dict().items()}
    return _ordered(save(copies, metadata))


def _ordered(file: bytes) -> bytes:
    """A safetensors file with its header in order; the library writes metadata in any. The header is padded by spaces
    to a multiple of 8."""
    header = json.dumps(_header(file), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[_data_at(file) :]


def _header(file: bytes) -> dict[str, Any]:
    """JSON, after its length as u64 (https://github.com/huggingface/safetensors, README)."""
    header: dict[str, Any] = json.loads(file[8 : _data_at(file)])
    return header


def _data_at(file: bytes) -> int:
    return 8 + int.from_bytes(file[:8], "little")


def parse_model(weights: bytes, spec: str, search_path: Path | None = None) -> Model:
    """As `load_model`: the model of class `spec`, `module:Class`, whose weights `dump_model` gave."""
    _append_search_path(search_path or Path.cwd())
    model = _fill(_find_class(spec), *_parse_weights(weights), "this file of weights")
    return model.eval().requires_grad_(False)


def config_text(model: Model) -> str:
    """The arguments that build the model again, as JSON. Raises ModelLoadError."""
    try:
        return json.dumps(model.config(), sort_keys=True)
    except (TypeError, ValueError) as exc:
        raise ModelLoadError(
            f"the config of {class_path(type(model))} is not JSON ({exc}): let Model.config() give numbers, texts, "
            "lists and dicts of them"
        ) from exc


def class_path(model_class: type[Model]) -> str:
    """The `module:Class` of a model's class."""
    return f"{model_class.__module__}:{model_class.__qualname__}"


def _append_search_path(search_path: Path) -> None:
    folder = str(search_path.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()


def _find_class(spec: str) -> type[Model]:
    module_name, colon, class_name = spec.partition(":")
    if not colon:
        raise ModelLoadError(
            f'no model is named "{spec}": use one of {", ".join(MODEL_NAMES)}, or module:Class for a model of your own'
        )
    if not module_name or not class_name or module_name.startswith("."):
        raise ModelLoadError(f'"{spec}" is not module:Class, say my_models.tutor:Tutor')
    found: object = _import(module_name, spec)
    for part in class_name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ModelLoadError(f'module "{module_name}" has no class "{class_name}": check the spelling of "{spec}"')
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise ModelLoadError(f'"{spec}" is not a subclass of evercurrent.model.Model: derive it from Model')
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ModelLoadError(f'"{spec}" cannot be built: it lacks {missing}; write them')
    return found


def _import(module_name: str, spec: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name == exc.name or module_name.startswith(f"{exc.name}.")):
            raise ModelLoadError(
                f'module "{module_name}" of "{spec}" needs module "{exc.name}", which is not installed'
            ) from exc
        raise ModelLoadError(
            f'no module "{module_name}" for "{spec}": start in the directory that holds it, or install it'
        ) from exc


def _build(model_class: type[Model], config: dict[str, object]) -> Model:
    try:
        return model_class(**config)
    except TypeError as exc:
        raise ModelLoadError(
            f"{class_path(model_class)} cannot be built from {config or 'no arguments'} ({exc}): give weights "
            "that were saved by save_model, let Model.config() give its arguments, or give them defaults"
        ) from exc


def _fill(model_class: type[Model], metadata: dict[str, str], tensors: dict[str, Tensor], file: str) -> Model:
    """The model that these weights are of. `file`: what to call them."""
    expected = class_path(model_class)
    if metadata.get("model") != expected:
        owner = metadata.get("model", "an unnamed model")
        raise ModelLoadError(f"{file} holds weights of {owner}, not of {expected}: give the weights of {expected}")
    try:
        config = json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as exc:
        raise ModelLoadError(f"{file} does not say how to build {expected}: save it again by save_model") from exc
    model = _build(model_class, config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as exc:
        raise ModelLoadError(f"{file} does not fit {expected}; train and save it again: {exc}") from exc
    return model


def _parse_weights(weights: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        tensors = load(weights)
    except SafetensorError as exc:
        raise ModelLoadError(f"these {len(weights)} bytes are not a safetensors file that can be read ({exc})") from exc
    return _header(weights).get("__metadata__", {}), tensors


def _read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as exc:
        raise ModelLoadError(f"no weights at {path}: check the path, or train first") from exc
    except (SafetensorError, OSError) as exc:
        raise ModelLoadError(f"{path} is not a safetensors file that can be read ({exc})") from exc
