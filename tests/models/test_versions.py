"""A model as bytes and as a version: the same bytes every time, back bit for bit, and what is told of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from evercurrent.describe import describe
from evercurrent.matching import OWN, mismatch
from evercurrent.model import Model
from evercurrent.models.loading import ModelLoadError, class_path, dump_model, load_model, parse_model, save_model
from evercurrent.models.versions import version_of
from evercurrent.v1.description_pb2 import OUTCOME_KIND_CHOICE, OUTCOME_KIND_VALUE, ModelDescription
from evercurrent.v1.models_pb2 import ModelVersion, StateTensor
from tests import toys
from tests.models.toys import Level, Preference

ROOT = Path(__file__).parents[2]
NUM_DUMPS = 20


class Laden(Level):
    """A model whose tensors are of every kind that a file must bring back: odd types, shapes, views and bits."""

    def __init__(self, scale: float = 1.0, words: Sequence[str] = ("ä", '"')) -> None:
        super().__init__()
        self.scale, self.words = scale, words
        self.inner = nn.Linear(3, 2)
        self.outer = nn.Linear(3, 2)
        self.outer.weight = self.inner.weight
        self.register_buffer("bits", torch.tensor([torch.nan, torch.inf, -0.0, 1e-45]))
        self.register_buffer("halves", torch.linspace(-1, 1, 5, dtype=torch.bfloat16))
        self.register_buffer("counts", torch.tensor(2**62 + 1))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("none", torch.zeros(0, 3))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("part", torch.arange(9)[2::3])

    def config(self) -> dict[str, object]:
        return {"words": self.words, "scale": self.scale}


class Unwritable(Level):
    """A model whose config is not JSON."""

    def config(self) -> dict[str, object]:
        return {"places": {1, 2}}


def bits(model: Model) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    """All that a model's tensors are."""
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in model.state_dict().items()
    }


def header_of(weights: bytes) -> dict[str, dict[str, str]]:
    size = int.from_bytes(weights[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(weights[8 : 8 + size])
    return header


# --- as bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Level(), Preference(7), Laden()], ids=lambda model: type(model).__name__)
def test_the_same_model_gives_the_same_bytes_every_time(model: Model) -> None:
    assert len({dump_model(model) for _ in range(NUM_DUMPS)}) == 1


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_gives_the_same_bytes(seed: str) -> None:
    program = (
        "import hashlib; from evercurrent.models.loading import dump_model; from tests.models.toys import Preference\n"
        "print(hashlib.sha256(dump_model(Preference(7))).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == hashlib.sha256(dump_model(Preference(7))).hexdigest()


@pytest.mark.parametrize("model", [Level(), Preference(7), Laden(0.1)], ids=lambda model: type(model).__name__)
def test_a_model_comes_back_bit_for_bit(model: Model) -> None:
    weights = dump_model(model)
    parsed = parse_model(weights, class_path(type(model)))
    assert type(parsed) is type(model)
    assert bits(parsed) == bits(model)
    assert dump_model(parsed) == weights
    assert not parsed.training
    assert not any(parameter.requires_grad for parameter in parsed.parameters())


def test_the_config_is_kept() -> None:
    weights = dump_model(Laden(0.1, ("ä", "é")))
    assert header_of(weights)["__metadata__"]["config"] == '{"scale": 0.1, "words": ["\\u00e4", "\\u00e9"]}'
    parsed = parse_model(weights, class_path(Laden))
    assert isinstance(parsed, Laden)
    assert (parsed.scale, parsed.words) == (0.1, ["ä", "é"])


def test_weights_that_are_tied_stay_tied() -> None:
    parsed = parse_model(dump_model(Laden()), class_path(Laden))
    assert isinstance(parsed, Laden)
    assert parsed.outer.weight is parsed.inner.weight


def test_the_bytes_are_what_a_saved_file_holds(tmp_path: Path) -> None:
    model = Laden()
    file = tmp_path / "weights.safetensors"
    save_model(model, file)
    assert file.read_bytes() == dump_model(model)
    assert bits(load_model(class_path(Laden), file)) == bits(model)


def test_dumping_a_model_leaves_it_as_it_was() -> None:
    model = Preference(7)
    before = bits(model)
    dump_model(model)
    assert bits(model) == before
    assert model.training
    assert model.place.requires_grad


def test_a_config_that_is_not_json_says_so() -> None:
    with pytest.raises(ModelLoadError, match=r"config of .*:Unwritable is not JSON .*set.*: let Model.config\(\) give"):
        dump_model(Unwritable())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("no_such_module_anywhere:Tutor", 'no module "no_such_module_anywhere" for "no_such_module_anywhere:Tutor"'),
        ("tests.models.toys:Tutor", 'module "tests.models.toys" has no class "Tutor"'),
        ("tests.models.toys:NotAModel", "derive it from Model"),
        ("tests.models.toys:Position", "^this file of weights holds weights of .*:Preference, not of .*:Position"),
        ("knowledge-tracing", 'no model is named "knowledge-tracing"'),
        ("", 'no model is named ""'),
    ],
)
def test_weights_for_another_class_or_none_say_what_to_do(spec: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        parse_model(dump_model(Preference()), spec)


def test_a_class_is_looked_for_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "class_of_a_version.py").write_text("from tests.models.toys import Level\n\nclass Own(Level): ...\n")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(ModelLoadError, match="no module"):
        parse_model(dump_model(Level()), "class_of_a_version:Own")
    with pytest.raises(ModelLoadError, match=r"of tests\.models\.toys:Level, not of class_of_a_version:Own"):
        parse_model(dump_model(Level()), "class_of_a_version:Own", tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_bytes_that_are_cut_off_say_so(cut: int) -> None:
    weights = dump_model(Preference())[:cut]
    with pytest.raises(ModelLoadError, match=f"^these {len(weights)} bytes are not a safetensors file"):
        parse_model(weights, class_path(Preference))


def test_weights_of_another_shape_do_not_fit() -> None:
    weights = dump_model(Preference(7)).replace(b'\\"num_places\\": 7', b'\\"num_places\\": 8')
    with pytest.raises(ModelLoadError, match=r"^this file of weights does not fit .*:Preference; train and save"):
        parse_model(weights, class_path(Preference))


def test_nothing_is_written_to_parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Services run on file systems that can only be read."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert isinstance(parse_model(dump_model(Preference()), class_path(Preference)), Preference)


# --- as a version ---------------------------------------------------------------------------------------------------


def test_a_version_says_what_makes_the_model() -> None:
    model = toys.Counting()
    manifest, weights = version_of(model, "v2", "ann", "because", 42)
    assert weights == dump_model(model)
    assert manifest == ModelVersion(
        version="v2",
        class_path="tests.toys:Counting",
        config="{}",
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_bytes=len(weights),
        description=describe(model),
        state=[
            StateTensor(name="count", shape=[1]),
            StateTensor(name="sum", shape=[1]),
            StateTensor(name="hash", shape=[1]),
            StateTensor(name="weights", shape=[2]),
        ],
        pushed_us=42,
        who="ann",
        why="because",
    )


def test_a_version_tells_its_config_and_is_built_from_what_it_tells() -> None:
    manifest, weights = version_of(Preference(7), "v2", "", "", 0)
    assert manifest.config == '{"num_places": 7}'
    assert manifest.state == [StateTensor(name="taste", shape=[3, 4])]
    assert describe(parse_model(weights, manifest.class_path)) == manifest.description


def test_models_that_differ_in_one_bit_are_other_versions() -> None:
    one, other = Preference(), Preference()
    other.place.data.view(torch.int32)[0, 0] ^= 1
    hashes = {version_of(model, "v2", "", "", 0)[0].weights_sha256 for model in (one, other)}
    assert len(hashes) == 2


# --- whether one can stand in for another ---------------------------------------------------------------------------

GIVEN = describe(toys.Counting())


def test_versions_of_a_model_can_stand_in_for_each_other() -> None:
    assert mismatch(GIVEN, describe(toys.Sluggish())) == ""


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (toys.Narrow(), "features: ['x'] instead of ['x', 'y']"),
        (toys.Wide(), "prediction width: 4096 instead of 2"),
        (toys.Choosing(), "ids: none instead of ["),
    ],
)
def test_the_first_of_what_differs_is_named(other: Model, says: str) -> None:
    assert mismatch(GIVEN, describe(other)).startswith(says)
    assert "\n" not in mismatch(describe(other), GIVEN)


def test_values_are_named_as_people_call_them() -> None:
    assert mismatch(another("outcome"), GIVEN) == "outcome: value instead of choice"
    assert mismatch(GIVEN, another("outcome")) == "outcome: choice instead of value"
    strange = another("outcome")
    strange.outcome = 9  # type: ignore[assignment]
    assert mismatch(GIVEN, strange) == "outcome: 9 instead of value"
    wider = ModelDescription()
    wider.CopyFrom(GIVEN)
    wider.outcome_max = 11
    assert mismatch(GIVEN, wider) == "outcome max: 11.0 instead of 10.0"


def another(field: str) -> ModelDescription:
    """The description of a model that differs in this field alone."""
    made = ModelDescription()
    made.CopyFrom(GIVEN)
    match field:
        case "ids":
            made.ids[1].size += 1
        case "features":
            made.features.reverse()
        case "outcome":
            assert made.outcome == OUTCOME_KIND_VALUE
            made.outcome = OUTCOME_KIND_CHOICE
        case "name":
            made.name = "another"
        case _:
            setattr(made, field, getattr(made, field) + 1)
    return made


@pytest.mark.parametrize("field", [field.name for field in ModelDescription.DESCRIPTOR.fields])
def test_all_that_clients_see_must_be_the_same(field: str) -> None:
    found = mismatch(GIVEN, another(field)), mismatch(another(field), GIVEN)
    if field in OWN:
        assert found == ("", "")
    else:
        assert all(text.startswith(f"{field.replace('_', ' ')}: ") for text in found)


def test_what_may_differ_is_what_clients_do_not_see() -> None:
    assert set(OWN) == {"name", "state_width"}
