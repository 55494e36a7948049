"""The contract's own rules: wire twins stay twins, every field is documented, committed stubs are in step."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from evercurrent.v1 import columns_pb2, session_pb2, wire_pb2

ROOT = Path(__file__).resolve().parent.parent
FIXED_WIDTH = {
    FieldDescriptor.TYPE_FIXED32: "fixed32",
    FieldDescriptor.TYPE_FIXED64: "fixed64",
    FieldDescriptor.TYPE_SFIXED64: "sfixed64",
    FieldDescriptor.TYPE_FLOAT: "float",
}
TWINS = {
    name.removeprefix("Wire"): (descriptor, getattr(module, name.removeprefix("Wire")).DESCRIPTOR)
    for name, descriptor in wire_pb2.DESCRIPTOR.message_types_by_name.items()
    for module in (columns_pb2, session_pb2)
    if hasattr(module, name.removeprefix("Wire"))
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """The protos with their comments, by file name."""
    out = tmp_path_factory.mktemp("descriptors") / "all.binpb"
    sources = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    includes = [f"-I{ROOT / 'protos'}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    assert protoc.main(["protoc", *includes, f"--descriptor_set_out={out}", "--include_source_info", *sources]) == 0
    return {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}


def leading_comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Comment by descriptor path: (4, message, 2, field) for a field, (5, enum, 2, value) for an enum's value."""
    return {tuple(location.path): location.leading_comments for location in file.source_code_info.location}


def field_comment(files: dict[str, FileDescriptorProto], field: FieldDescriptor) -> str:
    """The leading comment of a field of a top-level message."""
    assert field.containing_type is not None
    file = files[field.containing_type.file.name]
    message = [found.name for found in file.message_type].index(field.containing_type.name)
    return leading_comments(file)[(4, message, 2, field.index)].strip()


def kind(field: FieldDescriptor) -> object:
    """What a field holds: its message's or enum's name, or its scalar type."""
    if field.message_type is not None:
        return field.message_type.name.removeprefix("Wire")
    return field.enum_type.name if field.enum_type is not None else field.type


def is_packed_column(field: FieldDescriptor) -> bool:
    """Whether the field is a column of fixed-width values, which has the encoding of bytes."""
    return field.is_repeated and field.is_packed and field.type in FIXED_WIDTH


def disagreement(wire: FieldDescriptor, typed: FieldDescriptor) -> str:
    """How a field differs on the wire from its typed twin; empty when it does not."""
    if (wire.name, wire.number) != (typed.name, typed.number):
        return f"{wire.full_name} = {wire.number} is not {typed.full_name} = {typed.number}"
    if is_packed_column(typed):
        as_bytes = wire.type == FieldDescriptor.TYPE_BYTES and not wire.is_repeated
        return "" if as_bytes else f"{wire.full_name} is not bytes"
    same = kind(wire) == kind(typed) and wire.is_repeated == typed.is_repeated and wire.type == typed.type
    return "" if same else f"{wire.full_name} is of another type than {typed.full_name}"


def disagreements(wire: Descriptor, typed: Descriptor) -> list[str]:
    """Every way in which a wire message differs from its twin."""
    if wire.fields_by_number.keys() != typed.fields_by_number.keys():
        return [f"{wire.name} has fields {set(wire.fields_by_number)}, its twin {set(typed.fields_by_number)}"]
    found = [disagreement(field, typed.fields_by_number[field.number]) for field in wire.fields]
    oneofs = [field for field in wire.fields if oneof_name(field) != oneof_name(typed.fields_by_number[field.number])]
    return [text for text in found if text] + [f"{field.full_name} is in another oneof" for field in oneofs]


def oneof_name(field: FieldDescriptor) -> str | None:
    """The oneof that a field belongs to."""
    return field.containing_oneof.name if field.containing_oneof is not None else None


def test_every_wire_message_has_a_twin() -> None:
    assert {f"Wire{name}" for name in TWINS} == set(wire_pb2.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("name", sorted(TWINS))
def test_wire_message_agrees_with_its_twin(name: str) -> None:
    assert disagreements(*TWINS[name]) == []


def test_a_disagreement_is_found() -> None:
    events, results = TWINS["EventColumns"][0], TWINS["ResultColumns"][1]
    assert disagreements(events, results)
    assert disagreement(events.fields_by_name["ids"], TWINS["EventColumns"][1].fields_by_name["seqs"])


@pytest.mark.parametrize("name", sorted(TWINS))
def test_wire_comment_names_its_twin(name: str, files: dict[str, FileDescriptorProto]) -> None:
    wire, typed = TWINS[name]
    for field in wire.fields:
        twin = typed.fields_by_number[field.number]
        comment = field_comment(files, field)
        assert comment.startswith(f"Twin of {typed.name}.{twin.name}")
        if is_packed_column(twin):
            assert f": {FIXED_WIDTH[twin.type]}, little-endian" in comment


def test_bytes_of_a_twin_are_the_same() -> None:
    typed = columns_pb2.EventColumns(tags=[1, 2], seqs=[3, 4], ids=[-5, 6], features=[0.5], kinds=b"\1\2")
    wire = wire_pb2.WireEventColumns.FromString(typed.SerializeToString())
    assert wire.ids == (-5).to_bytes(8, "little", signed=True) + (6).to_bytes(8, "little")
    assert wire.SerializeToString() == typed.SerializeToString()


def test_everything_is_commented(files: dict[str, FileDescriptorProto]) -> None:
    bare = [
        f"{file.name}: {message.name}.{field.name}"
        for file in files.values()
        for number, message in enumerate(file.message_type)
        for index, field in enumerate(message.field)
        if not leading_comments(file).get((4, number, 2, index), "").strip()
    ]
    bare += [
        f"{file.name}: {value.name}"
        for file in files.values()
        for number, enum in enumerate(file.enum_type)
        for index, value in enumerate(enum.value)
        if not leading_comments(file).get((5, number, 2, index), "").strip()
    ]
    bare += [
        f"{file.name}: {service.name}.{method.name}"
        for file in files.values()
        for number, service in enumerate(file.service)
        for index, method in enumerate(service.method)
        if not leading_comments(file).get((6, number, 2, index), "").strip()
    ]
    assert bare == []


def test_no_nested_types_escape_the_comment_check(files: dict[str, FileDescriptorProto]) -> None:
    assert not any(message.nested_type or message.enum_type for file in files.values() for message in file.message_type)


def check_stubs(root: Path) -> subprocess.CompletedProcess[str]:
    """Runs the check of `make check` on a tree."""
    command = [sys.executable, str(ROOT / "scripts" / "stubs.py"), "--check", "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_stubs_are_in_step() -> None:
    checked = check_stubs(ROOT)
    assert checked.returncode == 0, checked.stderr


def test_stubs_out_of_step_are_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copytree(ROOT / "evercurrent" / "v1", tmp_path / "evercurrent" / "v1")
    proto = tmp_path / "protos" / "evercurrent" / "v1" / "admin.proto"
    proto.write_text(proto.read_text().replace("uint64 updates = 7;", "uint64 updates = 99;"))
    (tmp_path / "evercurrent" / "v1" / "worker_pb2.pyi").unlink()
    (tmp_path / "evercurrent" / "v1" / "gone_pb2.py").touch()
    checked = check_stubs(tmp_path)
    assert checked.returncode == 1
    assert "make protos" in checked.stderr
    assert "stale    evercurrent/v1/admin_pb2.py" in checked.stderr
    assert "missing  evercurrent/v1/worker_pb2.pyi" in checked.stderr
    assert "leftover evercurrent/v1/gone_pb2.py" in checked.stderr
