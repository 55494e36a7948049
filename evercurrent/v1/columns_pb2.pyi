from evercurrent.v1 import observation_pb2 as _observation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_OBSERVATION: _ClassVar[EventKind]
    EVENT_KIND_NO_OUTCOME: _ClassVar[EventKind]
    EVENT_KIND_QUERY: _ClassVar[EventKind]
    EVENT_KIND_SKIP: _ClassVar[EventKind]
    EVENT_KIND_REFUSED: _ClassVar[EventKind]
    EVENT_KIND_CLOSE: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_OBSERVATION: EventKind
EVENT_KIND_NO_OUTCOME: EventKind
EVENT_KIND_QUERY: EventKind
EVENT_KIND_SKIP: EventKind
EVENT_KIND_REFUSED: EventKind
EVENT_KIND_CLOSE: EventKind

class EventColumns(_message.Message):
    __slots__ = ("tags", "seqs", "ids", "features", "values", "choices", "vectors", "kinds", "event_times_us", "timeouts_us", "traceparents")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIMES_US_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_US_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENTS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[int]
    seqs: _containers.RepeatedScalarFieldContainer[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    values: _containers.RepeatedScalarFieldContainer[float]
    choices: _containers.RepeatedScalarFieldContainer[int]
    vectors: _containers.RepeatedScalarFieldContainer[float]
    kinds: bytes
    event_times_us: _containers.RepeatedScalarFieldContainer[int]
    timeouts_us: _containers.RepeatedScalarFieldContainer[int]
    traceparents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[_Iterable[int]] = ..., seqs: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[float]] = ..., values: _Optional[_Iterable[float]] = ..., choices: _Optional[_Iterable[int]] = ..., vectors: _Optional[_Iterable[float]] = ..., kinds: _Optional[bytes] = ..., event_times_us: _Optional[_Iterable[int]] = ..., timeouts_us: _Optional[_Iterable[int]] = ..., traceparents: _Optional[_Iterable[str]] = ...) -> None: ...

class IndexedRejection(_message.Message):
    __slots__ = ("index", "rejection")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    index: int
    rejection: _observation_pb2.Rejection
    def __init__(self, index: _Optional[int] = ..., rejection: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ...) -> None: ...

class ResultColumns(_message.Message):
    __slots__ = ("tags", "seqs", "statuses", "kinds", "versions", "applied_seqs", "durable_seqs", "predictions", "losses", "rejections", "queue_us", "step_us", "hydrate_us", "total_us", "lost", "at_risk", "model_versions", "model_indices")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    HYDRATE_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    AT_RISK_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_INDICES_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[int]
    seqs: _containers.RepeatedScalarFieldContainer[int]
    statuses: bytes
    kinds: bytes
    versions: _containers.RepeatedScalarFieldContainer[int]
    applied_seqs: _containers.RepeatedScalarFieldContainer[int]
    durable_seqs: _containers.RepeatedScalarFieldContainer[int]
    predictions: _containers.RepeatedScalarFieldContainer[float]
    losses: _containers.RepeatedScalarFieldContainer[float]
    rejections: _containers.RepeatedCompositeFieldContainer[IndexedRejection]
    queue_us: _containers.RepeatedScalarFieldContainer[int]
    step_us: _containers.RepeatedScalarFieldContainer[int]
    hydrate_us: _containers.RepeatedScalarFieldContainer[int]
    total_us: _containers.RepeatedScalarFieldContainer[int]
    lost: _containers.RepeatedScalarFieldContainer[int]
    at_risk: _containers.RepeatedScalarFieldContainer[int]
    model_versions: _containers.RepeatedScalarFieldContainer[str]
    model_indices: bytes
    def __init__(self, tags: _Optional[_Iterable[int]] = ..., seqs: _Optional[_Iterable[int]] = ..., statuses: _Optional[bytes] = ..., kinds: _Optional[bytes] = ..., versions: _Optional[_Iterable[int]] = ..., applied_seqs: _Optional[_Iterable[int]] = ..., durable_seqs: _Optional[_Iterable[int]] = ..., predictions: _Optional[_Iterable[float]] = ..., losses: _Optional[_Iterable[float]] = ..., rejections: _Optional[_Iterable[_Union[IndexedRejection, _Mapping]]] = ..., queue_us: _Optional[_Iterable[int]] = ..., step_us: _Optional[_Iterable[int]] = ..., hydrate_us: _Optional[_Iterable[int]] = ..., total_us: _Optional[_Iterable[int]] = ..., lost: _Optional[_Iterable[int]] = ..., at_risk: _Optional[_Iterable[int]] = ..., model_versions: _Optional[_Iterable[str]] = ..., model_indices: _Optional[bytes] = ...) -> None: ...
