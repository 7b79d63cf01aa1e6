"""The events of a qlog file, in any of the forms that programs write: JSON text sequences, JSON by lines, or one JSON.

Drafts of qlog differ in names and forms; here the events become alike. What they mean is for `trace` to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

RECORD = "\x1e"
_RENAMED = {"recovery_metrics_updated": "metrics_updated", "tuple_assigned": "path_assigned"}
"""Names of newer drafts, and what older ones say."""


class NotReadableError(Exception):
    """The file is no qlog, or not whole. The message says which, in one sentence without the file's name."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    time: float
    """Seconds since the first event."""
    name: str
    """Without its category."""
    path: str
    """Of the path that it belongs to; empty for the first."""
    data: Json


@dataclass(frozen=True, slots=True)
class Log:
    """One connection, as one side saw it."""

    side: str
    """"client", "server", "network" or "unknown"."""
    events: list[Event]
    cut_off: bool
    """Whether the last record is not whole: its writer was killed, or still writes."""


def parse(text: str) -> Log:
    """Read a file's text.

    Raises:
        NotReadableError: it is no qlog, a record is broken, or there is no event in it.
    """
    header, records, cut_off = _sequence(text) if text.startswith(RECORD) else _whole_or_lines(text)
    if not ("qlog_version" in header or "file_schema" in header):
        raise NotReadableError("this is not a qlog")
    traces = header.get("traces")
    trace = traces[0] if isinstance(traces, list) and traces else header.get("trace")
    if not isinstance(trace, dict):
        raise NotReadableError("this is not a qlog")
    common = trace.get("common_fields") or {}
    try:
        events = list(_events([*records, *trace.get("events", ())], common))
        side = trace.get("vantage_point", {}).get("type", "unknown")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NotReadableError(f"an event is not as qlog has them: {error!r}") from None
    if not events:
        raise NotReadableError("there are no events in this qlog")
    return Log(side, events, cut_off)


def _sequence(text: str) -> tuple[Json, list[Json], bool]:
    """Take apart a JSON text sequence (RFC 7464)."""
    return _decode(text[1:].split(RECORD))


def _whole_or_lines(text: str) -> tuple[Json, list[Json], bool]:
    """Read JSON as a whole; or by lines, as qlog once had it."""
    try:
        whole = json.loads(text)
    except ValueError:
        return _decode(text.splitlines() or [""])
    return (whole, [], False) if isinstance(whole, dict) else ({}, [], False)


def _decode(texts: list[str]) -> tuple[Json, list[Json], bool]:
    records: list[Json] = []
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
        except ValueError as error:
            if number == 1:
                raise NotReadableError("this is not a qlog") from None
            # RFC 7464 §2.4: of a writer that was killed, all but the last record is good.
            if number == len(texts):
                return records[0], records[1:], True
            raise NotReadableError(f"record {number} is broken: {error}") from None
        if not isinstance(record, dict):
            raise NotReadableError(f"record {number} is no object")
        records.append(record)
    return records[0], records[1:], False


def _events(records: Iterable[Json], common: Json) -> Iterator[Event]:
    began: float | None = None
    clock = 0.0
    default_format = common.get("time_format")
    default_path = common.get("path", common.get("tuple", ""))
    for record in records:
        time = float(record["time"])
        if record.get("time_format", default_format) in ("delta", "relative_to_previous_event"):
            time += clock
        clock = time
        began = time if began is None else began
        name = record["name"].rpartition(":")[2]
        path = record.get("path", record.get("tuple", default_path))
        yield Event((time - began) / 1000, _RENAMED.get(name, name), str(path), record.get("data") or {})
