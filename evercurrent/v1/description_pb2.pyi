from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutcomeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_KIND_UNSPECIFIED: _ClassVar[OutcomeKind]
    OUTCOME_KIND_VALUE: _ClassVar[OutcomeKind]
    OUTCOME_KIND_CHOICE: _ClassVar[OutcomeKind]
    OUTCOME_KIND_VECTOR: _ClassVar[OutcomeKind]
OUTCOME_KIND_UNSPECIFIED: OutcomeKind
OUTCOME_KIND_VALUE: OutcomeKind
OUTCOME_KIND_CHOICE: OutcomeKind
OUTCOME_KIND_VECTOR: OutcomeKind

class IdField(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("name", "ids", "features", "outcome", "outcome_width", "num_choices", "outcome_min", "outcome_max", "prediction_width", "state_width")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_WIDTH_FIELD_NUMBER: _ClassVar[int]
    NUM_CHOICES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_MIN_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_MAX_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_WIDTH_FIELD_NUMBER: _ClassVar[int]
    STATE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    ids: _containers.RepeatedCompositeFieldContainer[IdField]
    features: _containers.RepeatedScalarFieldContainer[str]
    outcome: OutcomeKind
    outcome_width: int
    num_choices: int
    outcome_min: float
    outcome_max: float
    prediction_width: int
    state_width: int
    def __init__(self, name: _Optional[str] = ..., ids: _Optional[_Iterable[_Union[IdField, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., outcome: _Optional[_Union[OutcomeKind, str]] = ..., outcome_width: _Optional[int] = ..., num_choices: _Optional[int] = ..., outcome_min: _Optional[float] = ..., outcome_max: _Optional[float] = ..., prediction_width: _Optional[int] = ..., state_width: _Optional[int] = ...) -> None: ...
