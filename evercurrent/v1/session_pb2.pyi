from evercurrent.v1 import columns_pb2 as _columns_pb2
from evercurrent.v1 import observation_pb2 as _observation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionOpen(_message.Message):
    __slots__ = ("user_id", "session_id", "namespace", "model", "wait_durable", "timings", "model_version")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WAIT_DURABLE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    namespace: str
    model: str
    wait_durable: bool
    timings: bool
    model_version: str
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., namespace: _Optional[str] = ..., model: _Optional[str] = ..., wait_durable: _Optional[bool] = ..., timings: _Optional[bool] = ..., model_version: _Optional[str] = ...) -> None: ...

class SessionOpened(_message.Message):
    __slots__ = ("session_id", "applied_seq", "durable_seq", "version", "model", "model_version")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    applied_seq: int
    durable_seq: int
    version: int
    model: str
    model_version: str
    def __init__(self, session_id: _Optional[str] = ..., applied_seq: _Optional[int] = ..., durable_seq: _Optional[int] = ..., version: _Optional[int] = ..., model: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("message", "session_id", "grace_ms")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    message: str
    session_id: str
    grace_ms: int
    def __init__(self, message: _Optional[str] = ..., session_id: _Optional[str] = ..., grace_ms: _Optional[int] = ...) -> None: ...

class Watermark(_message.Message):
    __slots__ = ("durable_seq",)
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    durable_seq: int
    def __init__(self, durable_seq: _Optional[int] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("open", "observation", "query", "skip")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    open: SessionOpen
    observation: _observation_pb2.Observation
    query: _observation_pb2.Query
    skip: _observation_pb2.Skip
    def __init__(self, open: _Optional[_Union[SessionOpen, _Mapping]] = ..., observation: _Optional[_Union[_observation_pb2.Observation, _Mapping]] = ..., query: _Optional[_Union[_observation_pb2.Query, _Mapping]] = ..., skip: _Optional[_Union[_observation_pb2.Skip, _Mapping]] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("opened", "result", "query_result", "rejected", "watermark", "go_away")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    QUERY_RESULT_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    opened: SessionOpened
    result: _observation_pb2.ObservationResult
    query_result: _observation_pb2.QueryResult
    rejected: _observation_pb2.Rejection
    watermark: Watermark
    go_away: GoAway
    def __init__(self, opened: _Optional[_Union[SessionOpened, _Mapping]] = ..., result: _Optional[_Union[_observation_pb2.ObservationResult, _Mapping]] = ..., query_result: _Optional[_Union[_observation_pb2.QueryResult, _Mapping]] = ..., rejected: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ..., watermark: _Optional[_Union[Watermark, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ...) -> None: ...

class ExchangeOpen(_message.Message):
    __slots__ = ("namespace", "model", "wait_durable", "timings", "model_version")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WAIT_DURABLE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    model: str
    wait_durable: bool
    timings: bool
    model_version: str
    def __init__(self, namespace: _Optional[str] = ..., model: _Optional[str] = ..., wait_durable: _Optional[bool] = ..., timings: _Optional[bool] = ..., model_version: _Optional[str] = ...) -> None: ...

class ExchangeOpened(_message.Message):
    __slots__ = ("model", "in_flight_max", "in_flight_session_max", "frame_events_max")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_MAX_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_SESSION_MAX_FIELD_NUMBER: _ClassVar[int]
    FRAME_EVENTS_MAX_FIELD_NUMBER: _ClassVar[int]
    model: str
    in_flight_max: int
    in_flight_session_max: int
    frame_events_max: int
    def __init__(self, model: _Optional[str] = ..., in_flight_max: _Optional[int] = ..., in_flight_session_max: _Optional[int] = ..., frame_events_max: _Optional[int] = ...) -> None: ...

class TagOpen(_message.Message):
    __slots__ = ("tag", "user_id", "session_id")
    TAG_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    tag: int
    user_id: str
    session_id: str
    def __init__(self, tag: _Optional[int] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ...) -> None: ...

class TagOpened(_message.Message):
    __slots__ = ("tag", "opened", "rejection")
    TAG_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    tag: int
    opened: SessionOpened
    rejection: _observation_pb2.Rejection
    def __init__(self, tag: _Optional[int] = ..., opened: _Optional[_Union[SessionOpened, _Mapping]] = ..., rejection: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ...) -> None: ...

class ExchangeFrame(_message.Message):
    __slots__ = ("opens", "events", "closes")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CLOSES_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[TagOpen]
    events: _columns_pb2.EventColumns
    closes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, opens: _Optional[_Iterable[_Union[TagOpen, _Mapping]]] = ..., events: _Optional[_Union[_columns_pb2.EventColumns, _Mapping]] = ..., closes: _Optional[_Iterable[int]] = ...) -> None: ...

class ExchangeResults(_message.Message):
    __slots__ = ("opens", "results")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[TagOpened]
    results: _columns_pb2.ResultColumns
    def __init__(self, opens: _Optional[_Iterable[_Union[TagOpened, _Mapping]]] = ..., results: _Optional[_Union[_columns_pb2.ResultColumns, _Mapping]] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: ExchangeOpen
    frame: ExchangeFrame
    def __init__(self, open: _Optional[_Union[ExchangeOpen, _Mapping]] = ..., frame: _Optional[_Union[ExchangeFrame, _Mapping]] = ...) -> None: ...

class ExchangeResponse(_message.Message):
    __slots__ = ("opened", "frame", "rejected", "go_away")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    opened: ExchangeOpened
    frame: ExchangeResults
    rejected: _observation_pb2.Rejection
    go_away: GoAway
    def __init__(self, opened: _Optional[_Union[ExchangeOpened, _Mapping]] = ..., frame: _Optional[_Union[ExchangeResults, _Mapping]] = ..., rejected: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("user_id", "session_id", "namespace", "model", "observation", "wait_for", "timings")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    session_id: str
    namespace: str
    model: str
    observation: _observation_pb2.Observation
    wait_for: _observation_pb2.WaitFor
    timings: bool
    def __init__(self, user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., namespace: _Optional[str] = ..., model: _Optional[str] = ..., observation: _Optional[_Union[_observation_pb2.Observation, _Mapping]] = ..., wait_for: _Optional[_Union[_observation_pb2.WaitFor, str]] = ..., timings: _Optional[bool] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _observation_pb2.ObservationResult
    def __init__(self, result: _Optional[_Union[_observation_pb2.ObservationResult, _Mapping]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("user_id", "namespace", "model", "query", "timings")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    model: str
    query: _observation_pb2.Query
    timings: bool
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ..., model: _Optional[str] = ..., query: _Optional[_Union[_observation_pb2.Query, _Mapping]] = ..., timings: _Optional[bool] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _observation_pb2.QueryResult
    def __init__(self, result: _Optional[_Union[_observation_pb2.QueryResult, _Mapping]] = ...) -> None: ...
