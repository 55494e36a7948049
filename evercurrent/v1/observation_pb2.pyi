from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_APPLIED: _ClassVar[Status]
    STATUS_DUPLICATE: _ClassVar[Status]
    STATUS_REJECTED: _ClassVar[Status]
    STATUS_SKIPPED: _ClassVar[Status]
    STATUS_ANSWERED: _ClassVar[Status]
    STATUS_CLOSED: _ClassVar[Status]

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_PROTOCOL: _ClassVar[Reason]
    REASON_IDS_COUNT: _ClassVar[Reason]
    REASON_ID_RANGE: _ClassVar[Reason]
    REASON_FEATURES_COUNT: _ClassVar[Reason]
    REASON_FEATURE_NOT_FINITE: _ClassVar[Reason]
    REASON_OUTCOME: _ClassVar[Reason]
    REASON_SEQ_GAP: _ClassVar[Reason]
    REASON_SEQ_REGRESSION: _ClassVar[Reason]
    REASON_DEADLINE: _ClassVar[Reason]
    REASON_LOSS_NOT_FINITE: _ClassVar[Reason]
    REASON_GRADIENT: _ClassVar[Reason]
    REASON_STATE: _ClassVar[Reason]
    REASON_OVERLOADED: _ClassVar[Reason]
    REASON_UNAVAILABLE: _ClassVar[Reason]
    REASON_TAG: _ClassVar[Reason]
    REASON_TOO_LARGE: _ClassVar[Reason]
    REASON_COLUMNS: _ClassVar[Reason]
    REASON_USER_ID: _ClassVar[Reason]
    REASON_SESSION_ID: _ClassVar[Reason]
    REASON_MODEL: _ClassVar[Reason]
    REASON_SESSION_FORGOTTEN: _ClassVar[Reason]
    REASON_NO_STORE: _ClassVar[Reason]
    REASON_CANDIDATES: _ClassVar[Reason]
    REASON_MODEL_ERROR: _ClassVar[Reason]
    REASON_VERSION: _ClassVar[Reason]
    REASON_EVENT_TIME: _ClassVar[Reason]
    REASON_NOT_OWNER: _ClassVar[Reason]
    REASON_DATA_LOSS: _ClassVar[Reason]
    REASON_SCHEMA: _ClassVar[Reason]
    REASON_SESSION_TAKEN: _ClassVar[Reason]
    REASON_QUARANTINED: _ClassVar[Reason]
    REASON_MODEL_CHANGE: _ClassVar[Reason]
    REASON_REVISION: _ClassVar[Reason]
    REASON_NOT_QUARANTINED: _ClassVar[Reason]
    REASON_UNAUTHENTICATED: _ClassVar[Reason]
    REASON_TOKEN_EXPIRED: _ClassVar[Reason]
    REASON_PERMISSION: _ClassVar[Reason]

class WaitFor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_FOR_UNSPECIFIED: _ClassVar[WaitFor]
    WAIT_FOR_APPLIED: _ClassVar[WaitFor]
    WAIT_FOR_DURABLE: _ClassVar[WaitFor]
STATUS_UNSPECIFIED: Status
STATUS_APPLIED: Status
STATUS_DUPLICATE: Status
STATUS_REJECTED: Status
STATUS_SKIPPED: Status
STATUS_ANSWERED: Status
STATUS_CLOSED: Status
REASON_UNSPECIFIED: Reason
REASON_PROTOCOL: Reason
REASON_IDS_COUNT: Reason
REASON_ID_RANGE: Reason
REASON_FEATURES_COUNT: Reason
REASON_FEATURE_NOT_FINITE: Reason
REASON_OUTCOME: Reason
REASON_SEQ_GAP: Reason
REASON_SEQ_REGRESSION: Reason
REASON_DEADLINE: Reason
REASON_LOSS_NOT_FINITE: Reason
REASON_GRADIENT: Reason
REASON_STATE: Reason
REASON_OVERLOADED: Reason
REASON_UNAVAILABLE: Reason
REASON_TAG: Reason
REASON_TOO_LARGE: Reason
REASON_COLUMNS: Reason
REASON_USER_ID: Reason
REASON_SESSION_ID: Reason
REASON_MODEL: Reason
REASON_SESSION_FORGOTTEN: Reason
REASON_NO_STORE: Reason
REASON_CANDIDATES: Reason
REASON_MODEL_ERROR: Reason
REASON_VERSION: Reason
REASON_EVENT_TIME: Reason
REASON_NOT_OWNER: Reason
REASON_DATA_LOSS: Reason
REASON_SCHEMA: Reason
REASON_SESSION_TAKEN: Reason
REASON_QUARANTINED: Reason
REASON_MODEL_CHANGE: Reason
REASON_REVISION: Reason
REASON_NOT_QUARANTINED: Reason
REASON_UNAUTHENTICATED: Reason
REASON_TOKEN_EXPIRED: Reason
REASON_PERMISSION: Reason
WAIT_FOR_UNSPECIFIED: WaitFor
WAIT_FOR_APPLIED: WaitFor
WAIT_FOR_DURABLE: WaitFor

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("seq", "ids", "features", "value", "choice", "vector", "event_time_us", "observation_id", "timeout_ms", "traceparent")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    seq: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    value: float
    choice: int
    vector: Vector
    event_time_us: int
    observation_id: str
    timeout_ms: int
    traceparent: str
    def __init__(self, seq: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[float]] = ..., value: _Optional[float] = ..., choice: _Optional[int] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., event_time_us: _Optional[int] = ..., observation_id: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("ids", "features")
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[float]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("query_id", "candidates", "event_time_us", "timeout_ms")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    event_time_us: int
    timeout_ms: int
    def __init__(self, query_id: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., event_time_us: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("to",)
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    to: int
    def __init__(self, to: _Optional[int] = ..., **kwargs) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("reason", "field", "message", "retry_after_ms", "owner")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    field: str
    message: str
    retry_after_ms: int
    owner: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., field: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., owner: _Optional[str] = ...) -> None: ...

class StageTimings(_message.Message):
    __slots__ = ("route_us", "queue_us", "hydrate_us", "step_us", "total_us")
    ROUTE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    HYDRATE_US_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    route_us: int
    queue_us: int
    hydrate_us: int
    step_us: int
    total_us: int
    def __init__(self, route_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., hydrate_us: _Optional[int] = ..., step_us: _Optional[int] = ..., total_us: _Optional[int] = ...) -> None: ...

class ObservationResult(_message.Message):
    __slots__ = ("seq", "status", "version", "applied_seq", "durable_seq", "prediction", "loss", "rejection", "lost", "at_risk", "timings", "model_version")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    AT_RISK_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    seq: int
    status: Status
    version: int
    applied_seq: int
    durable_seq: int
    prediction: _containers.RepeatedScalarFieldContainer[float]
    loss: float
    rejection: Rejection
    lost: int
    at_risk: int
    timings: StageTimings
    model_version: str
    def __init__(self, seq: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., version: _Optional[int] = ..., applied_seq: _Optional[int] = ..., durable_seq: _Optional[int] = ..., prediction: _Optional[_Iterable[float]] = ..., loss: _Optional[float] = ..., rejection: _Optional[_Union[Rejection, _Mapping]] = ..., lost: _Optional[int] = ..., at_risk: _Optional[int] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ..., model_version: _Optional[str] = ...) -> None: ...

class QueryResult(_message.Message):
    __slots__ = ("query_id", "status", "version", "predictions", "rejection", "timings", "model_version")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    status: Status
    version: int
    predictions: _containers.RepeatedScalarFieldContainer[float]
    rejection: Rejection
    timings: StageTimings
    model_version: str
    def __init__(self, query_id: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., version: _Optional[int] = ..., predictions: _Optional[_Iterable[float]] = ..., rejection: _Optional[_Union[Rejection, _Mapping]] = ..., timings: _Optional[_Union[StageTimings, _Mapping]] = ..., model_version: _Optional[str] = ...) -> None: ...
