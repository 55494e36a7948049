from evercurrent.v1 import columns_pb2 as _columns_pb2
from evercurrent.v1 import observation_pb2 as _observation_pb2
from evercurrent.v1 import session_pb2 as _session_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WireEventColumns(_message.Message):
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
    tags: bytes
    seqs: bytes
    ids: bytes
    features: bytes
    values: bytes
    choices: bytes
    vectors: bytes
    kinds: bytes
    event_times_us: bytes
    timeouts_us: bytes
    traceparents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[bytes] = ..., seqs: _Optional[bytes] = ..., ids: _Optional[bytes] = ..., features: _Optional[bytes] = ..., values: _Optional[bytes] = ..., choices: _Optional[bytes] = ..., vectors: _Optional[bytes] = ..., kinds: _Optional[bytes] = ..., event_times_us: _Optional[bytes] = ..., timeouts_us: _Optional[bytes] = ..., traceparents: _Optional[_Iterable[str]] = ...) -> None: ...

class WireResultColumns(_message.Message):
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
    tags: bytes
    seqs: bytes
    statuses: bytes
    kinds: bytes
    versions: bytes
    applied_seqs: bytes
    durable_seqs: bytes
    predictions: bytes
    losses: bytes
    rejections: _containers.RepeatedCompositeFieldContainer[_columns_pb2.IndexedRejection]
    queue_us: bytes
    step_us: bytes
    hydrate_us: bytes
    total_us: bytes
    lost: bytes
    at_risk: bytes
    model_versions: _containers.RepeatedScalarFieldContainer[str]
    model_indices: bytes
    def __init__(self, tags: _Optional[bytes] = ..., seqs: _Optional[bytes] = ..., statuses: _Optional[bytes] = ..., kinds: _Optional[bytes] = ..., versions: _Optional[bytes] = ..., applied_seqs: _Optional[bytes] = ..., durable_seqs: _Optional[bytes] = ..., predictions: _Optional[bytes] = ..., losses: _Optional[bytes] = ..., rejections: _Optional[_Iterable[_Union[_columns_pb2.IndexedRejection, _Mapping]]] = ..., queue_us: _Optional[bytes] = ..., step_us: _Optional[bytes] = ..., hydrate_us: _Optional[bytes] = ..., total_us: _Optional[bytes] = ..., lost: _Optional[bytes] = ..., at_risk: _Optional[bytes] = ..., model_versions: _Optional[_Iterable[str]] = ..., model_indices: _Optional[bytes] = ...) -> None: ...

class WireExchangeFrame(_message.Message):
    __slots__ = ("opens", "events", "closes")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[_session_pb2.TagOpen]
    events: WireEventColumns
    closes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, opens: _Optional[_Iterable[_Union[_session_pb2.TagOpen, _Mapping]]] = ..., events: _Optional[_Union[WireEventColumns, _Mapping]] = ..., closes: _Optional[_Iterable[int]] = ...) -> None: ...

class WireExchangeResults(_message.Message):
    __slots__ = ("opens", "results")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[_session_pb2.TagOpened]
    results: WireResultColumns
    def __init__(self, opens: _Optional[_Iterable[_Union[_session_pb2.TagOpened, _Mapping]]] = ..., results: _Optional[_Union[WireResultColumns, _Mapping]] = ...) -> None: ...

class WireExchangeRequest(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: _session_pb2.ExchangeOpen
    frame: WireExchangeFrame
    def __init__(self, open: _Optional[_Union[_session_pb2.ExchangeOpen, _Mapping]] = ..., frame: _Optional[_Union[WireExchangeFrame, _Mapping]] = ...) -> None: ...

class WireExchangeResponse(_message.Message):
    __slots__ = ("opened", "frame", "rejected", "go_away")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    opened: _session_pb2.ExchangeOpened
    frame: WireExchangeResults
    rejected: _observation_pb2.Rejection
    go_away: _session_pb2.GoAway
    def __init__(self, opened: _Optional[_Union[_session_pb2.ExchangeOpened, _Mapping]] = ..., frame: _Optional[_Union[WireExchangeResults, _Mapping]] = ..., rejected: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ..., go_away: _Optional[_Union[_session_pb2.GoAway, _Mapping]] = ...) -> None: ...
