from evercurrent.v1 import admin_pb2 as _admin_pb2
from evercurrent.v1 import columns_pb2 as _columns_pb2
from evercurrent.v1 import description_pb2 as _description_pb2
from evercurrent.v1 import models_pb2 as _models_pb2
from evercurrent.v1 import observation_pb2 as _observation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkOpen(_message.Message):
    __slots__ = ("protocol_version", "router", "slots")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    router: str
    slots: int
    def __init__(self, protocol_version: _Optional[int] = ..., router: _Optional[str] = ..., slots: _Optional[int] = ...) -> None: ...

class LinkOpened(_message.Message):
    __slots__ = ("worker", "incarnation", "model", "has_store", "weight", "models", "live")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HAS_STORE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    incarnation: str
    model: _description_pb2.ModelDescription
    has_store: bool
    weight: int
    models: _containers.RepeatedScalarFieldContainer[str]
    live: str
    def __init__(self, worker: _Optional[str] = ..., incarnation: _Optional[str] = ..., model: _Optional[_Union[_description_pb2.ModelDescription, _Mapping]] = ..., has_store: _Optional[bool] = ..., weight: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., live: _Optional[str] = ...) -> None: ...

class LinkTagOpen(_message.Message):
    __slots__ = ("tag", "user_id", "session_id", "namespace", "slot", "watermarks", "model_version")
    TAG_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    tag: int
    user_id: str
    session_id: str
    namespace: str
    slot: int
    watermarks: bool
    model_version: str
    def __init__(self, tag: _Optional[int] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., namespace: _Optional[str] = ..., slot: _Optional[int] = ..., watermarks: _Optional[bool] = ..., model_version: _Optional[str] = ...) -> None: ...

class LinkTagOpened(_message.Message):
    __slots__ = ("tag", "applied_seq", "durable_seq", "version", "rejection")
    TAG_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQ_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    tag: int
    applied_seq: int
    durable_seq: int
    version: int
    rejection: _observation_pb2.Rejection
    def __init__(self, tag: _Optional[int] = ..., applied_seq: _Optional[int] = ..., durable_seq: _Optional[int] = ..., version: _Optional[int] = ..., rejection: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ...) -> None: ...

class LinkFrame(_message.Message):
    __slots__ = ("opens", "events", "refusals", "slots", "traces")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    TRACES_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[LinkTagOpen]
    events: bytes
    refusals: _containers.RepeatedCompositeFieldContainer[_columns_pb2.IndexedRejection]
    slots: LinkSlots
    traces: _containers.RepeatedCompositeFieldContainer[LinkTrace]
    def __init__(self, opens: _Optional[_Iterable[_Union[LinkTagOpen, _Mapping]]] = ..., events: _Optional[bytes] = ..., refusals: _Optional[_Iterable[_Union[_columns_pb2.IndexedRejection, _Mapping]]] = ..., slots: _Optional[_Union[LinkSlots, _Mapping]] = ..., traces: _Optional[_Iterable[_Union[LinkTrace, _Mapping]]] = ...) -> None: ...

class LinkTrace(_message.Message):
    __slots__ = ("index", "context")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    index: int
    context: bytes
    def __init__(self, index: _Optional[int] = ..., context: _Optional[bytes] = ...) -> None: ...

class LinkSlots(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slots: _Optional[_Iterable[int]] = ...) -> None: ...

class LinkResults(_message.Message):
    __slots__ = ("opens", "results", "rejections", "watermarks", "ended", "status", "models")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[LinkTagOpened]
    results: bytes
    rejections: _containers.RepeatedCompositeFieldContainer[_columns_pb2.IndexedRejection]
    watermarks: bytes
    ended: _containers.RepeatedCompositeFieldContainer[LinkTagEnded]
    status: WorkerStatus
    models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, opens: _Optional[_Iterable[_Union[LinkTagOpened, _Mapping]]] = ..., results: _Optional[bytes] = ..., rejections: _Optional[_Iterable[_Union[_columns_pb2.IndexedRejection, _Mapping]]] = ..., watermarks: _Optional[bytes] = ..., ended: _Optional[_Iterable[_Union[LinkTagEnded, _Mapping]]] = ..., status: _Optional[_Union[WorkerStatus, _Mapping]] = ..., models: _Optional[_Iterable[str]] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("residents", "updates_at_risk", "owned_slots", "segments", "events_dropped", "draining", "control_revision", "live", "quarantined", "journal_lag_us")
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_AT_RISK_FIELD_NUMBER: _ClassVar[int]
    OWNED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    CONTROL_REVISION_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_LAG_US_FIELD_NUMBER: _ClassVar[int]
    residents: int
    updates_at_risk: int
    owned_slots: int
    segments: int
    events_dropped: int
    draining: bool
    control_revision: int
    live: str
    quarantined: int
    journal_lag_us: int
    def __init__(self, residents: _Optional[int] = ..., updates_at_risk: _Optional[int] = ..., owned_slots: _Optional[int] = ..., segments: _Optional[int] = ..., events_dropped: _Optional[int] = ..., draining: _Optional[bool] = ..., control_revision: _Optional[int] = ..., live: _Optional[str] = ..., quarantined: _Optional[int] = ..., journal_lag_us: _Optional[int] = ...) -> None: ...

class LinkTagEnded(_message.Message):
    __slots__ = ("tag", "rejection")
    TAG_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    tag: int
    rejection: _observation_pb2.Rejection
    def __init__(self, tag: _Optional[int] = ..., rejection: _Optional[_Union[_observation_pb2.Rejection, _Mapping]] = ...) -> None: ...

class SlotClaim(_message.Message):
    __slots__ = ("slot", "claim")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    slot: int
    claim: str
    def __init__(self, slot: _Optional[int] = ..., claim: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("incarnation", "slots")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    slots: _containers.RepeatedCompositeFieldContainer[SlotClaim]
    def __init__(self, incarnation: _Optional[str] = ..., slots: _Optional[_Iterable[_Union[SlotClaim, _Mapping]]] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ("rows", "not_held", "kept", "complete")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NOT_HELD_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    not_held: _containers.RepeatedScalarFieldContainer[int]
    kept: _containers.RepeatedScalarFieldContainer[int]
    complete: bool
    def __init__(self, rows: _Optional[bytes] = ..., not_held: _Optional[_Iterable[int]] = ..., kept: _Optional[_Iterable[int]] = ..., complete: _Optional[bool] = ...) -> None: ...

class ForgetStateRequest(_message.Message):
    __slots__ = ("user_id", "namespace", "slot")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    slot: int
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ..., slot: _Optional[int] = ...) -> None: ...

class ForgetStateResponse(_message.Message):
    __slots__ = ("version", "sessions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    version: int
    sessions: int
    def __init__(self, version: _Optional[int] = ..., sessions: _Optional[int] = ...) -> None: ...

class ForgetEventsRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class ForgetEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: int
    def __init__(self, events: _Optional[int] = ...) -> None: ...

class FlushEventsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushEventsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadUserRequest(_message.Message):
    __slots__ = ("user_id", "namespace", "slot")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    slot: int
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ..., slot: _Optional[int] = ...) -> None: ...

class ReadUserResponse(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: _admin_pb2.UserPart
    def __init__(self, part: _Optional[_Union[_admin_pb2.UserPart, _Mapping]] = ...) -> None: ...

class TopUsersRequest(_message.Message):
    __slots__ = ("num", "order")
    NUM_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    num: int
    order: _admin_pb2.TopUsersOrder
    def __init__(self, num: _Optional[int] = ..., order: _Optional[_Union[_admin_pb2.TopUsersOrder, str]] = ...) -> None: ...

class TopUsersResponse(_message.Message):
    __slots__ = ("users", "half_life_s")
    USERS_FIELD_NUMBER: _ClassVar[int]
    HALF_LIFE_S_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[_admin_pb2.TopUser]
    half_life_s: float
    def __init__(self, users: _Optional[_Iterable[_Union[_admin_pb2.TopUser, _Mapping]]] = ..., half_life_s: _Optional[float] = ...) -> None: ...

class ReadModelsRequest(_message.Message):
    __slots__ = ("versions", "num_changes")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_CHANGES_FIELD_NUMBER: _ClassVar[int]
    versions: bool
    num_changes: int
    def __init__(self, versions: _Optional[bool] = ..., num_changes: _Optional[int] = ...) -> None: ...

class ReadModelsResponse(_message.Message):
    __slots__ = ("control", "versions", "changes")
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    control: _models_pb2.ModelControl
    versions: _containers.RepeatedCompositeFieldContainer[_models_pb2.ModelVersion]
    changes: _containers.RepeatedCompositeFieldContainer[_models_pb2.ModelChange]
    def __init__(self, control: _Optional[_Union[_models_pb2.ModelControl, _Mapping]] = ..., versions: _Optional[_Iterable[_Union[_models_pb2.ModelVersion, _Mapping]]] = ..., changes: _Optional[_Iterable[_Union[_models_pb2.ModelChange, _Mapping]]] = ...) -> None: ...

class PrepareModelRequest(_message.Message):
    __slots__ = ("version", "to_go_live")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_GO_LIVE_FIELD_NUMBER: _ClassVar[int]
    version: str
    to_go_live: bool
    def __init__(self, version: _Optional[str] = ..., to_go_live: _Optional[bool] = ...) -> None: ...

class PrepareModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangeControlRequest(_message.Message):
    __slots__ = ("start_shadow", "stop_shadow", "promote", "rollback", "policy", "who", "why", "revision", "comparisons")
    START_SHADOW_FIELD_NUMBER: _ClassVar[int]
    STOP_SHADOW_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    start_shadow: _models_pb2.StartShadow
    stop_shadow: _models_pb2.StopShadow
    promote: _models_pb2.Promote
    rollback: _models_pb2.Rollback
    policy: _models_pb2.Policy
    who: str
    why: str
    revision: int
    comparisons: _containers.RepeatedCompositeFieldContainer[_models_pb2.Comparison]
    def __init__(self, start_shadow: _Optional[_Union[_models_pb2.StartShadow, _Mapping]] = ..., stop_shadow: _Optional[_Union[_models_pb2.StopShadow, _Mapping]] = ..., promote: _Optional[_Union[_models_pb2.Promote, _Mapping]] = ..., rollback: _Optional[_Union[_models_pb2.Rollback, _Mapping]] = ..., policy: _Optional[_Union[_models_pb2.Policy, _Mapping]] = ..., who: _Optional[str] = ..., why: _Optional[str] = ..., revision: _Optional[int] = ..., comparisons: _Optional[_Iterable[_Union[_models_pb2.Comparison, _Mapping]]] = ...) -> None: ...

class ChangeControlResponse(_message.Message):
    __slots__ = ("control",)
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    control: _models_pb2.ModelControl
    def __init__(self, control: _Optional[_Union[_models_pb2.ModelControl, _Mapping]] = ...) -> None: ...

class FollowControlRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class FollowControlResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("incarnation", "control", "score_range", "versions")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    SCORE_RANGE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    control: _models_pb2.ModelControl
    score_range: float
    versions: _containers.RepeatedCompositeFieldContainer[_models_pb2.VersionSums]
    def __init__(self, incarnation: _Optional[str] = ..., control: _Optional[_Union[_models_pb2.ModelControl, _Mapping]] = ..., score_range: _Optional[float] = ..., versions: _Optional[_Iterable[_Union[_models_pb2.VersionSums, _Mapping]]] = ...) -> None: ...

class QuarantinedRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class QuarantinedResponse(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[_admin_pb2.QuarantinedUser]
    def __init__(self, users: _Optional[_Iterable[_Union[_admin_pb2.QuarantinedUser, _Mapping]]] = ...) -> None: ...

class UnquarantineRequest(_message.Message):
    __slots__ = ("user_id", "namespace")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    namespace: str
    def __init__(self, user_id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class UnquarantineResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: LinkOpen
    frame: LinkFrame
    def __init__(self, open: _Optional[_Union[LinkOpen, _Mapping]] = ..., frame: _Optional[_Union[LinkFrame, _Mapping]] = ...) -> None: ...

class LinkResponse(_message.Message):
    __slots__ = ("opened", "frame")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    opened: LinkOpened
    frame: LinkResults
    def __init__(self, opened: _Optional[_Union[LinkOpened, _Mapping]] = ..., frame: _Optional[_Union[LinkResults, _Mapping]] = ...) -> None: ...
