from evercurrent.v1 import admin_pb2 as _admin_pb2
from evercurrent.v1 import columns_pb2 as _columns_pb2
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
    __slots__ = ("worker", "incarnation", "model", "has_store", "weight")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HAS_STORE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    worker: str
    incarnation: str
    model: _admin_pb2.ModelDescription
    has_store: bool
    weight: int
    def __init__(self, worker: _Optional[str] = ..., incarnation: _Optional[str] = ..., model: _Optional[_Union[_admin_pb2.ModelDescription, _Mapping]] = ..., has_store: _Optional[bool] = ..., weight: _Optional[int] = ...) -> None: ...

class LinkTagOpen(_message.Message):
    __slots__ = ("tag", "user_id", "session_id", "namespace", "slot", "watermarks")
    TAG_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    tag: int
    user_id: str
    session_id: str
    namespace: str
    slot: int
    watermarks: bool
    def __init__(self, tag: _Optional[int] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., namespace: _Optional[str] = ..., slot: _Optional[int] = ..., watermarks: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("opens", "events", "refusals", "slots")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[LinkTagOpen]
    events: bytes
    refusals: _containers.RepeatedCompositeFieldContainer[_columns_pb2.IndexedRejection]
    slots: LinkSlots
    def __init__(self, opens: _Optional[_Iterable[_Union[LinkTagOpen, _Mapping]]] = ..., events: _Optional[bytes] = ..., refusals: _Optional[_Iterable[_Union[_columns_pb2.IndexedRejection, _Mapping]]] = ..., slots: _Optional[_Union[LinkSlots, _Mapping]] = ...) -> None: ...

class LinkSlots(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slots: _Optional[_Iterable[int]] = ...) -> None: ...

class LinkResults(_message.Message):
    __slots__ = ("opens", "results", "rejections", "watermarks", "ended", "status")
    OPENS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    opens: _containers.RepeatedCompositeFieldContainer[LinkTagOpened]
    results: bytes
    rejections: _containers.RepeatedCompositeFieldContainer[_columns_pb2.IndexedRejection]
    watermarks: bytes
    ended: _containers.RepeatedCompositeFieldContainer[LinkTagEnded]
    status: WorkerStatus
    def __init__(self, opens: _Optional[_Iterable[_Union[LinkTagOpened, _Mapping]]] = ..., results: _Optional[bytes] = ..., rejections: _Optional[_Iterable[_Union[_columns_pb2.IndexedRejection, _Mapping]]] = ..., watermarks: _Optional[bytes] = ..., ended: _Optional[_Iterable[_Union[LinkTagEnded, _Mapping]]] = ..., status: _Optional[_Union[WorkerStatus, _Mapping]] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("residents", "updates_at_risk", "owned_slots", "segments", "events_dropped", "draining")
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_AT_RISK_FIELD_NUMBER: _ClassVar[int]
    OWNED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    residents: int
    updates_at_risk: int
    owned_slots: int
    segments: int
    events_dropped: int
    draining: bool
    def __init__(self, residents: _Optional[int] = ..., updates_at_risk: _Optional[int] = ..., owned_slots: _Optional[int] = ..., segments: _Optional[int] = ..., events_dropped: _Optional[int] = ..., draining: _Optional[bool] = ...) -> None: ...

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
