"""Models are found by name or path, and whatever does not fit says what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evercurrent.models.knowledge_tracing import KnowledgeTracing
from evercurrent.models.loading import ModelLoadError, class_path, load_model, save_model
from tests.models.toys import Level, Position, Preference

PREFERENCE = class_path(Preference)


@pytest.fixture(autouse=True)
def import_path() -> Iterator[None]:
    path, modules = sys.path.copy(), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_named_model_is_shipped_with_weights() -> None:
    model = load_model("knowledge-tracing")
    assert isinstance(model, KnowledgeTracing)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert bool(model.tables[0].any())


def test_class_without_weights_is_built_without_arguments() -> None:
    assert isinstance(load_model(class_path(Level)), Level)


def test_weights_bring_their_config(tmp_path: Path) -> None:
    model = Preference(num_places=17)
    with torch.no_grad():
        model.place.mul_(3.0)
    save_model(model, tmp_path / "weights.safetensors")
    loaded = load_model(PREFERENCE, tmp_path / "weights.safetensors")
    assert isinstance(loaded, Preference)
    assert loaded.observation.ids[0].size == 17
    assert torch.equal(loaded.place, model.place)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_search_path_comes_last(tmp_path: Path) -> None:
    source = "from tests.models.toys import Level\n\n\nclass Own(Level):\n    pass\n"
    (tmp_path / "own_model_of_a_user.py").write_text(source)
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')\n")
    model = load_model("own_model_of_a_user:Own", search_path=tmp_path)
    assert isinstance(model, Level)
    assert sys.path[-1] == str(tmp_path)


def test_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_in_working_directory.py").write_text("from tests.models.toys import Level\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("model_in_working_directory:Level"), Level)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("knowlege-tracing", "use one of knowledge-tracing, or module:Class"),
        (":Tutor", "is not module:Class"),
        ("tutor:", "is not module:Class"),
        (".tutor:Tutor", "is not module:Class"),
        ("no_such_module_anywhere:Tutor", 'no module "no_such_module_anywhere"'),
        ("tests.models.no_such_part:Tutor", "start in the directory that holds it"),
        ("tests.models.toys:Tutor", 'has no class "Tutor"'),
        ("tests.models.toys:NotAModel", "derive it from Model"),
        ("tests.models.toys:torch", "derive it from Model"),
        ("tests.models.toys:Unfinished", "lacks loss, predict"),
        ("evercurrent.models.knowledge_tracing:KnowledgeTracing", "cannot be built from no arguments"),
    ],
)
def test_unusable_spec_says_what_to_do(spec: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        load_model(spec)


def test_module_that_lacks_a_module_names_it(tmp_path: Path) -> None:
    (tmp_path / "model_with_missing_import.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModelLoadError, match='needs module "no_such_dependency", which is not installed'):
        load_model("model_with_missing_import:Tutor", search_path=tmp_path)


def test_error_inside_a_users_module_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "model_that_fails.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_model("model_that_fails:Tutor", search_path=tmp_path)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no weights at"):
        load_model(PREFERENCE, tmp_path / "none.safetensors")


def test_file_that_is_not_safetensors(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ModelLoadError, match="is not a safetensors file"):
        load_model(PREFERENCE, tmp_path / "weights.safetensors")


def test_weights_of_another_model(tmp_path: Path) -> None:
    save_model(Position(), tmp_path / "weights.safetensors")
    with pytest.raises(ModelLoadError, match=r"holds weights of tests.models.toys:Position, not of"):
        load_model(PREFERENCE, tmp_path / "weights.safetensors")


def test_weights_that_do_not_say_whose(tmp_path: Path) -> None:
    save_file({"place": torch.zeros(5, 4)}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelLoadError, match="holds weights of an unnamed model"):
        load_model(PREFERENCE, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("config", [{}, {"config": "{"}])
def test_weights_that_do_not_say_how_to_build(tmp_path: Path, config: dict[str, str]) -> None:
    save_file({"place": torch.zeros(5, 4)}, tmp_path / "weights.safetensors", {"model": PREFERENCE, **config})
    with pytest.raises(ModelLoadError, match="does not say how to build"):
        load_model(PREFERENCE, tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        ({"place": torch.zeros(6, 4)}, "{}", "does not fit"),
        ({"plaice": torch.zeros(5, 4)}, "{}", "does not fit"),
        ({"place": torch.zeros(5, 4)}, '{"num_plaices": 5}', "cannot be built from"),
    ],
)
def test_weights_of_another_shape(tmp_path: Path, tensors: dict[str, torch.Tensor], config: str, says: str) -> None:
    save_file(tensors, tmp_path / "weights.safetensors", {"model": PREFERENCE, "config": config})
    with pytest.raises(ModelLoadError, match=says):
        load_model(PREFERENCE, tmp_path / "weights.safetensors")


def test_model_of_the_program_itself_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Level, "__module__", "__main__")
    with pytest.raises(ModelLoadError, match="move it to a module"):
        save_model(Level(), tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())
