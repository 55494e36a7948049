"""Logs: one line an act, an event and what belongs to it. Through the standard library, so that whoever embeds a part
of us has the say; as text, or as one JSON object a line.

A line that is written while an event of a trace is handled names the trace. What users send is never logged above
debug.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from evercurrent.telemetry.tracing import current

EVENT, FIELDS = "evercurrent_event", "evercurrent_fields"
"""Attributes of a record of ours, beside the message that holds both."""

Logger = structlog.stdlib.BoundLogger


def get_logger(name: str) -> Logger:
    """A logger whose calls take an event and its fields: `logger.info("link opened", worker="worker-0")`."""
    logger: Logger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=Logger,
        processors=[structlog.stdlib.filter_by_level, _add_trace, _as_record],
        cache_logger_on_first_use=True,
    )
    return logger


def configure(level: str, form: str, process: str) -> None:
    """Have this process log to standard error: `level` as logging names it, `form` text or json."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(_json_formatter(process))
    else:
        text = f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(text))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if (context := current.get()) is not None:
        event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return event


def _as_record(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """The arguments of the standard library's logger: the message as text, and its parts beside it."""
    name, exc_info = event.pop("event"), event.pop("exc_info", None)
    message = " ".join([str(name), *(f"{key}={_shown(value)}" for key, value in event.items())])
    return (message,), {"exc_info": exc_info, "extra": {EVENT: name, FIELDS: dict(event)}}


def _shown(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(text) if any(letter.isspace() for letter in text) or text == "" else text


def _json_formatter(process: str) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            _parts,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            lambda _, __, event: {"process": process, **event},
            structlog.processors.JSONRenderer(default=str),
        ],
    )


def _parts(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A record of ours as the event and fields that it was made of; any other as its message."""
    record: logging.LogRecord = event["_record"]
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    if record.exc_info:
        event["exc_info"] = record.exc_info
    return {**event, **fields, "event": getattr(record, EVENT, event["event"])}
