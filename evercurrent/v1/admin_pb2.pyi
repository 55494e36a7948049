from evercurrent.v1 import description_pb2 as _description_pb2
from evercurrent.v1 import models_pb2 as _models_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_UP: _ClassVar[WorkerState]
    WORKER_STATE_DOWN: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]

class TopUsersOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOP_USERS_ORDER_UNSPECIFIED: _ClassVar[TopUsersOrder]
    TOP_USERS_ORDER_EVENTS: _ClassVar[TopUsersOrder]
    TOP_USERS_ORDER_STEP_TIME: _ClassVar[TopUsersOrder]
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_UP: WorkerState
WORKER_STATE_DOWN: WorkerState
WORKER_STATE_DRAINING: WorkerState
TOP_USERS_ORDER_UNSPECIFIED: TopUsersOrder
TOP_USERS_ORDER_EVENTS: TopUsersOrder
TOP_USERS_ORDER_STEP_TIME: TopUsersOrder

class RingMember(_message.Message):
    __slots__ = ("name", "address", "num_slots", "weight")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    num_slots: int
    weight: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., num_slots: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class GetRingRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class GetRingResponse(_message.Message):
    __slots__ = ("digest", "num_slots", "members", "slots", "user_slot", "user_worker")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUM_SLOTS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    USER_SLOT_FIELD_NUMBER: _ClassVar[int]
    USER_WORKER_FIELD_NUMBER: _ClassVar[int]
    digest: str
    num_slots: int
    members: _containers.RepeatedCompositeFieldContainer[RingMember]
    slots: _containers.RepeatedScalarFieldContainer[int]
    user_slot: int
    user_worker: str
    def __init__(self, digest: _Optional[str] = ..., num_slots: _Optional[int] = ..., members: _Optional[_Iterable[_Union[RingMember, _Mapping]]] = ..., slots: _Optional[_Iterable[int]] = ..., user_slot: _Optional[int] = ..., user_worker: _Optional[str] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("name", "address", "state", "incarnation", "open_sessions", "in_flight_events", "updates", "residents", "updates_at_risk", "owned_slots", "segments", "events_dropped", "on_ring", "journal_lag_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OPEN_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_EVENTS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_AT_RISK_FIELD_NUMBER: _ClassVar[int]
    OWNED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    ON_RING_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_LAG_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    state: WorkerState
    incarnation: str
    open_sessions: int
    in_flight_events: int
    updates: int
    residents: int
    updates_at_risk: int
    owned_slots: int
    segments: int
    events_dropped: int
    on_ring: bool
    journal_lag_ms: float
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[_Union[WorkerState, str]] = ..., incarnation: _Optional[str] = ..., open_sessions: _Optional[int] = ..., in_flight_events: _Optional[int] = ..., updates: _Optional[int] = ..., residents: _Optional[int] = ..., updates_at_risk: _Optional[int] = ..., owned_slots: _Optional[int] = ..., segments: _Optional[int] = ..., events_dropped: _Optional[int] = ..., on_ring: _Optional[bool] = ..., journal_lag_ms: _Optional[float] = ...) -> None: ...

class RouterInfo(_message.Message):
    __slots__ = ("name", "sessions", "moving_sessions", "moved_sessions", "replay_events", "replay_bytes", "replay_dropped", "replayed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MOVING_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MOVED_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    REPLAY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    REPLAY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLAY_DROPPED_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    name: str
    sessions: int
    moving_sessions: int
    moved_sessions: int
    replay_events: int
    replay_bytes: int
    replay_dropped: int
    replayed: int
    def __init__(self, name: _Optional[str] = ..., sessions: _Optional[int] = ..., moving_sessions: _Optional[int] = ..., moved_sessions: _Optional[int] = ..., replay_events: _Optional[int] = ..., replay_bytes: _Optional[int] = ..., replay_dropped: _Optional[int] = ..., replayed: _Optional[int] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers", "router")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    router: RouterInfo
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ..., router: _Optional[_Union[RouterInfo, _Mapping]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _description_pb2.ModelDescription
    def __init__(self, model: _Optional[_Union[_description_pb2.ModelDescription, _Mapping]] = ...) -> None: ...

class ForgetUserRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class ForgetUserResponse(_message.Message):
    __slots__ = ("version", "sessions", "events")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    sessions: int
    events: int
    def __init__(self, version: _Optional[int] = ..., sessions: _Optional[int] = ..., events: _Optional[int] = ...) -> None: ...

class ExportUserRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class UserSession(_message.Message):
    __slots__ = ("session_id", "last_seq", "durable_seq", "lost")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    last_seq: int
    durable_seq: int
    lost: int
    def __init__(self, session_id: _Optional[str] = ..., last_seq: _Optional[int] = ..., durable_seq: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class UserState(_message.Message):
    __slots__ = ("version", "durable_version", "model", "state", "sessions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DURABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    version: int
    durable_version: int
    model: str
    state: _containers.RepeatedScalarFieldContainer[float]
    sessions: _containers.RepeatedCompositeFieldContainer[UserSession]
    def __init__(self, version: _Optional[int] = ..., durable_version: _Optional[int] = ..., model: _Optional[str] = ..., state: _Optional[_Iterable[float]] = ..., sessions: _Optional[_Iterable[_Union[UserSession, _Mapping]]] = ...) -> None: ...

class LoggedEvent(_message.Message):
    __slots__ = ("event_time_us", "session_id", "seq", "version", "ids", "features", "value", "choice", "vector", "prediction", "loss", "model")
    EVENT_TIME_US_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    event_time_us: int
    session_id: str
    seq: int
    version: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedScalarFieldContainer[float]
    value: float
    choice: int
    vector: _containers.RepeatedScalarFieldContainer[float]
    prediction: _containers.RepeatedScalarFieldContainer[float]
    loss: float
    model: str
    def __init__(self, event_time_us: _Optional[int] = ..., session_id: _Optional[str] = ..., seq: _Optional[int] = ..., version: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[float]] = ..., value: _Optional[float] = ..., choice: _Optional[int] = ..., vector: _Optional[_Iterable[float]] = ..., prediction: _Optional[_Iterable[float]] = ..., loss: _Optional[float] = ..., model: _Optional[str] = ...) -> None: ...

class UserPart(_message.Message):
    __slots__ = ("state", "event")
    STATE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    state: UserState
    event: LoggedEvent
    def __init__(self, state: _Optional[_Union[UserState, _Mapping]] = ..., event: _Optional[_Union[LoggedEvent, _Mapping]] = ...) -> None: ...

class ExportUserResponse(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: UserPart
    def __init__(self, part: _Optional[_Union[UserPart, _Mapping]] = ...) -> None: ...

class GetLatencyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LatencySummary(_message.Message):
    __slots__ = ("stage", "count", "p50_ms", "p99_ms", "p999_ms", "max_ms")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    P999_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_MS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    def __init__(self, stage: _Optional[str] = ..., count: _Optional[int] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., p999_ms: _Optional[float] = ..., max_ms: _Optional[float] = ...) -> None: ...

class GetLatencyResponse(_message.Message):
    __slots__ = ("stages",)
    STAGES_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[LatencySummary]
    def __init__(self, stages: _Optional[_Iterable[_Union[LatencySummary, _Mapping]]] = ...) -> None: ...

class GetTopUsersRequest(_message.Message):
    __slots__ = ("num", "order")
    NUM_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    num: int
    order: TopUsersOrder
    def __init__(self, num: _Optional[int] = ..., order: _Optional[_Union[TopUsersOrder, str]] = ...) -> None: ...

class TopUser(_message.Message):
    __slots__ = ("user_id", "namespace", "slot", "worker", "events_per_s", "step_ms_per_s", "step_share")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_SHARE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    slot: int
    worker: str
    events_per_s: float
    step_ms_per_s: float
    step_share: float
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ..., slot: _Optional[int] = ..., worker: _Optional[str] = ..., events_per_s: _Optional[float] = ..., step_ms_per_s: _Optional[float] = ..., step_share: _Optional[float] = ...) -> None: ...

class GetTopUsersResponse(_message.Message):
    __slots__ = ("users", "half_life_s", "missing_workers")
    USERS_FIELD_NUMBER: _ClassVar[int]
    HALF_LIFE_S_FIELD_NUMBER: _ClassVar[int]
    MISSING_WORKERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[TopUser]
    half_life_s: float
    missing_workers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, users: _Optional[_Iterable[_Union[TopUser, _Mapping]]] = ..., half_life_s: _Optional[float] = ..., missing_workers: _Optional[_Iterable[str]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("control", "versions")
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    control: _models_pb2.ModelControl
    versions: _containers.RepeatedCompositeFieldContainer[_models_pb2.ModelVersion]
    def __init__(self, control: _Optional[_Union[_models_pb2.ModelControl, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[_models_pb2.ModelVersion, _Mapping]]] = ...) -> None: ...

class ChangeModelsRequest(_message.Message):
    __slots__ = ("start_shadow", "stop_shadow", "promote", "rollback", "policy", "who", "why", "revision")
    START_SHADOW_FIELD_NUMBER: _ClassVar[int]
    STOP_SHADOW_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    start_shadow: _models_pb2.StartShadow
    stop_shadow: _models_pb2.StopShadow
    promote: _models_pb2.Promote
    rollback: _models_pb2.Rollback
    policy: _models_pb2.Policy
    who: str
    why: str
    revision: int
    def __init__(self, start_shadow: _Optional[_Union[_models_pb2.StartShadow, _Mapping]] = ..., stop_shadow: _Optional[_Union[_models_pb2.StopShadow, _Mapping]] = ..., promote: _Optional[_Union[_models_pb2.Promote, _Mapping]] = ..., rollback: _Optional[_Union[_models_pb2.Rollback, _Mapping]] = ..., policy: _Optional[_Union[_models_pb2.Policy, _Mapping]] = ..., who: _Optional[str] = ..., why: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class WorkerChange(_message.Message):
    __slots__ = ("worker", "took_ms")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TOOK_MS_FIELD_NUMBER: _ClassVar[int]
    worker: str
    took_ms: float
    def __init__(self, worker: _Optional[str] = ..., took_ms: _Optional[float] = ...) -> None: ...

class ChangeModelsResponse(_message.Message):
    __slots__ = ("control", "workers", "missing_workers", "prepare_ms", "change_ms")
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_WORKERS_FIELD_NUMBER: _ClassVar[int]
    PREPARE_MS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_MS_FIELD_NUMBER: _ClassVar[int]
    control: _models_pb2.ModelControl
    workers: _containers.RepeatedCompositeFieldContainer[WorkerChange]
    missing_workers: _containers.RepeatedScalarFieldContainer[str]
    prepare_ms: float
    change_ms: float
    def __init__(self, control: _Optional[_Union[_models_pb2.ModelControl, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WorkerChange, _Mapping]]] = ..., missing_workers: _Optional[_Iterable[str]] = ..., prepare_ms: _Optional[float] = ..., change_ms: _Optional[float] = ...) -> None: ...

class WatchComparisonRequest(_message.Message):
    __slots__ = ("version", "interval_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    version: str
    interval_ms: int
    def __init__(self, version: _Optional[str] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class WatchComparisonResponse(_message.Message):
    __slots__ = ("comparisons", "live", "revision")
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    comparisons: _containers.RepeatedCompositeFieldContainer[_models_pb2.Comparison]
    live: str
    revision: int
    def __init__(self, comparisons: _Optional[_Iterable[_Union[_models_pb2.Comparison, _Mapping]]] = ..., live: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ListModelChangesRequest(_message.Message):
    __slots__ = ("num",)
    NUM_FIELD_NUMBER: _ClassVar[int]
    num: int
    def __init__(self, num: _Optional[int] = ...) -> None: ...

class ListModelChangesResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[_models_pb2.ModelChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[_models_pb2.ModelChange, _Mapping]]] = ...) -> None: ...

class ListQuarantinedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class QuarantinedUser(_message.Message):
    __slots__ = ("user_id", "namespace", "worker", "version")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    worker: str
    version: int
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ..., worker: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ListQuarantinedResponse(_message.Message):
    __slots__ = ("users", "missing_workers")
    USERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_WORKERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[QuarantinedUser]
    missing_workers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, users: _Optional[_Iterable[_Union[QuarantinedUser, _Mapping]]] = ..., missing_workers: _Optional[_Iterable[str]] = ...) -> None: ...

class ReleaseQuarantinedRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class ReleaseQuarantinedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
