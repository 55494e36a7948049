from evercurrent.v1 import description_pb2 as _description_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ShadowStart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHADOW_START_UNSPECIFIED: _ClassVar[ShadowStart]
    SHADOW_START_MIGRATED: _ClassVar[ShadowStart]
    SHADOW_START_INITIAL: _ClassVar[ShadowStart]

class PolicyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_MODE_UNSPECIFIED: _ClassVar[PolicyMode]
    POLICY_MODE_MANUAL: _ClassVar[PolicyMode]
    POLICY_MODE_AUTO: _ClassVar[PolicyMode]

class Score(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_UNSPECIFIED: _ClassVar[Score]
    SCORE_BRIER: _ClassVar[Score]
    SCORE_LOG: _ClassVar[Score]
    SCORE_MODEL: _ClassVar[Score]

class ModelRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_ROLE_UNSPECIFIED: _ClassVar[ModelRole]
    MODEL_ROLE_LIVE: _ClassVar[ModelRole]
    MODEL_ROLE_STANDBY: _ClassVar[ModelRole]
    MODEL_ROLE_SHADOW: _ClassVar[ModelRole]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_BETTER: _ClassVar[Verdict]
    VERDICT_WORSE: _ClassVar[Verdict]
SHADOW_START_UNSPECIFIED: ShadowStart
SHADOW_START_MIGRATED: ShadowStart
SHADOW_START_INITIAL: ShadowStart
POLICY_MODE_UNSPECIFIED: PolicyMode
POLICY_MODE_MANUAL: PolicyMode
POLICY_MODE_AUTO: PolicyMode
SCORE_UNSPECIFIED: Score
SCORE_BRIER: Score
SCORE_LOG: Score
SCORE_MODEL: Score
MODEL_ROLE_UNSPECIFIED: ModelRole
MODEL_ROLE_LIVE: ModelRole
MODEL_ROLE_STANDBY: ModelRole
MODEL_ROLE_SHADOW: ModelRole
VERDICT_UNSPECIFIED: Verdict
VERDICT_BETTER: Verdict
VERDICT_WORSE: Verdict

class StateTensor(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("format", "version", "class_path", "config", "weights_sha256", "weights_bytes", "description", "state", "pushed_us", "who", "why")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASS_PATH_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PUSHED_US_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    format: int
    version: str
    class_path: str
    config: str
    weights_sha256: str
    weights_bytes: int
    description: _description_pb2.ModelDescription
    state: _containers.RepeatedCompositeFieldContainer[StateTensor]
    pushed_us: int
    who: str
    why: str
    def __init__(self, format: _Optional[int] = ..., version: _Optional[str] = ..., class_path: _Optional[str] = ..., config: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., weights_bytes: _Optional[int] = ..., description: _Optional[_Union[_description_pb2.ModelDescription, _Mapping]] = ..., state: _Optional[_Iterable[_Union[StateTensor, _Mapping]]] = ..., pushed_us: _Optional[int] = ..., who: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ShadowPlan(_message.Message):
    __slots__ = ("version", "fraction", "start", "level", "started_us")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    version: str
    fraction: float
    start: ShadowStart
    level: float
    started_us: int
    def __init__(self, version: _Optional[str] = ..., fraction: _Optional[float] = ..., start: _Optional[_Union[ShadowStart, str]] = ..., level: _Optional[float] = ..., started_us: _Optional[int] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("mode", "level", "margin", "score", "slower_max")
    MODE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SLOWER_MAX_FIELD_NUMBER: _ClassVar[int]
    mode: PolicyMode
    level: float
    margin: float
    score: Score
    slower_max: float
    def __init__(self, mode: _Optional[_Union[PolicyMode, str]] = ..., level: _Optional[float] = ..., margin: _Optional[float] = ..., score: _Optional[_Union[Score, str]] = ..., slower_max: _Optional[float] = ...) -> None: ...

class ModelControl(_message.Message):
    __slots__ = ("format", "revision", "live", "standby", "shadows", "policy", "num_started", "live_since_us", "change")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    SHADOWS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NUM_STARTED_FIELD_NUMBER: _ClassVar[int]
    LIVE_SINCE_US_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    format: int
    revision: int
    live: str
    standby: str
    shadows: _containers.RepeatedCompositeFieldContainer[ShadowPlan]
    policy: Policy
    num_started: int
    live_since_us: int
    change: ModelChange
    def __init__(self, format: _Optional[int] = ..., revision: _Optional[int] = ..., live: _Optional[str] = ..., standby: _Optional[str] = ..., shadows: _Optional[_Iterable[_Union[ShadowPlan, _Mapping]]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., num_started: _Optional[int] = ..., live_since_us: _Optional[int] = ..., change: _Optional[_Union[ModelChange, _Mapping]] = ...) -> None: ...

class ModelChange(_message.Message):
    __slots__ = ("revision", "time_us", "who", "why", "what", "live_before", "live_after", "comparisons")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    LIVE_BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIVE_AFTER_FIELD_NUMBER: _ClassVar[int]
    COMPARISONS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    time_us: int
    who: str
    why: str
    what: str
    live_before: str
    live_after: str
    comparisons: _containers.RepeatedCompositeFieldContainer[Comparison]
    def __init__(self, revision: _Optional[int] = ..., time_us: _Optional[int] = ..., who: _Optional[str] = ..., why: _Optional[str] = ..., what: _Optional[str] = ..., live_before: _Optional[str] = ..., live_after: _Optional[str] = ..., comparisons: _Optional[_Iterable[_Union[Comparison, _Mapping]]] = ...) -> None: ...

class SequenceSums(_message.Message):
    __slots__ = ("count", "sum", "variance")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    count: int
    sum: float
    variance: float
    def __init__(self, count: _Optional[int] = ..., sum: _Optional[float] = ..., variance: _Optional[float] = ...) -> None: ...

class VersionSums(_message.Message):
    __slots__ = ("version", "role", "fraction", "users", "shed_users", "updates", "rejected", "errors", "backlog", "missed_events", "step_us", "steps", "score_sum", "live_score_sum", "score", "rejections", "failures", "slowness")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    SHED_USERS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    MISSED_EVENTS_FIELD_NUMBER: _ClassVar[int]
    STEP_US_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SCORE_SUM_FIELD_NUMBER: _ClassVar[int]
    LIVE_SCORE_SUM_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SLOWNESS_FIELD_NUMBER: _ClassVar[int]
    version: str
    role: ModelRole
    fraction: float
    users: int
    shed_users: int
    updates: int
    rejected: int
    errors: int
    backlog: int
    missed_events: int
    step_us: int
    steps: int
    score_sum: float
    live_score_sum: float
    score: SequenceSums
    rejections: SequenceSums
    failures: SequenceSums
    slowness: SequenceSums
    def __init__(self, version: _Optional[str] = ..., role: _Optional[_Union[ModelRole, str]] = ..., fraction: _Optional[float] = ..., users: _Optional[int] = ..., shed_users: _Optional[int] = ..., updates: _Optional[int] = ..., rejected: _Optional[int] = ..., errors: _Optional[int] = ..., backlog: _Optional[int] = ..., missed_events: _Optional[int] = ..., step_us: _Optional[int] = ..., steps: _Optional[int] = ..., score_sum: _Optional[float] = ..., live_score_sum: _Optional[float] = ..., score: _Optional[_Union[SequenceSums, _Mapping]] = ..., rejections: _Optional[_Union[SequenceSums, _Mapping]] = ..., failures: _Optional[_Union[SequenceSums, _Mapping]] = ..., slowness: _Optional[_Union[SequenceSums, _Mapping]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("mean", "low", "high")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    mean: float
    low: float
    high: float
    def __init__(self, mean: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("live", "sums", "level", "score", "rejections", "failures", "slowness", "verdict", "missing_workers", "time_us", "revision")
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SLOWNESS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    MISSING_WORKERS_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    live: str
    sums: VersionSums
    level: float
    score: Interval
    rejections: Interval
    failures: Interval
    slowness: Interval
    verdict: Verdict
    missing_workers: _containers.RepeatedScalarFieldContainer[str]
    time_us: int
    revision: int
    def __init__(self, live: _Optional[str] = ..., sums: _Optional[_Union[VersionSums, _Mapping]] = ..., level: _Optional[float] = ..., score: _Optional[_Union[Interval, _Mapping]] = ..., rejections: _Optional[_Union[Interval, _Mapping]] = ..., failures: _Optional[_Union[Interval, _Mapping]] = ..., slowness: _Optional[_Union[Interval, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., missing_workers: _Optional[_Iterable[str]] = ..., time_us: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class StartShadow(_message.Message):
    __slots__ = ("version", "fraction", "start")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    version: str
    fraction: float
    start: ShadowStart
    def __init__(self, version: _Optional[str] = ..., fraction: _Optional[float] = ..., start: _Optional[_Union[ShadowStart, str]] = ...) -> None: ...

class StopShadow(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class Promote(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("drop",)
    FROM_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    drop: bool
    def __init__(self, drop: _Optional[bool] = ..., **kwargs) -> None: ...
