from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SlotRecord(_message.Message):
    __slots__ = ("format", "slot", "epoch", "incarnation", "address", "claim")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    format: int
    slot: int
    epoch: int
    incarnation: str
    address: str
    claim: str
    def __init__(self, format: _Optional[int] = ..., slot: _Optional[int] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ..., claim: _Optional[str] = ...) -> None: ...

class StoredSession(_message.Message):
    __slots__ = ("id_high", "id_low", "last_seq", "lost")
    ID_HIGH_FIELD_NUMBER: _ClassVar[int]
    ID_LOW_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    id_high: int
    id_low: int
    last_seq: int
    lost: int
    def __init__(self, id_high: _Optional[int] = ..., id_low: _Optional[int] = ..., last_seq: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class UserRecord(_message.Message):
    __slots__ = ("format", "user", "version", "forgotten", "sessions", "floor_high", "floor_low", "state", "model", "damaged", "parts")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_HIGH_FIELD_NUMBER: _ClassVar[int]
    FLOOR_LOW_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    format: int
    user: str
    version: int
    forgotten: bool
    sessions: _containers.RepeatedCompositeFieldContainer[StoredSession]
    floor_high: int
    floor_low: int
    state: bytes
    model: str
    damaged: bool
    parts: _containers.RepeatedCompositeFieldContainer[StatePart]
    def __init__(self, format: _Optional[int] = ..., user: _Optional[str] = ..., version: _Optional[int] = ..., forgotten: _Optional[bool] = ..., sessions: _Optional[_Iterable[_Union[StoredSession, _Mapping]]] = ..., floor_high: _Optional[int] = ..., floor_low: _Optional[int] = ..., state: _Optional[bytes] = ..., model: _Optional[str] = ..., damaged: _Optional[bool] = ..., parts: _Optional[_Iterable[_Union[StatePart, _Mapping]]] = ...) -> None: ...

class SealedUserRecord(_message.Message):
    __slots__ = ("record", "checksum")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    checksum: int
    def __init__(self, record: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("slot", "claim", "base")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    claim: str
    base: str
    def __init__(self, slot: _Optional[int] = ..., claim: _Optional[str] = ..., base: _Optional[str] = ...) -> None: ...

class SegmentFooter(_message.Message):
    __slots__ = ("format", "incarnation", "number", "first", "seal", "attempts", "num_rows", "model", "parts")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    format: int
    incarnation: str
    number: int
    first: int
    seal: bool
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    num_rows: int
    model: str
    parts: _containers.RepeatedCompositeFieldContainer[StatePart]
    def __init__(self, format: _Optional[int] = ..., incarnation: _Optional[str] = ..., number: _Optional[int] = ..., first: _Optional[int] = ..., seal: _Optional[bool] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., num_rows: _Optional[int] = ..., model: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[StatePart, _Mapping]]] = ...) -> None: ...

class StatePart(_message.Message):
    __slots__ = ("version", "width")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    version: str
    width: int
    def __init__(self, version: _Optional[str] = ..., width: _Optional[int] = ...) -> None: ...
