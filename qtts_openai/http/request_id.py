"""The id of the request that the running code works for, in every line of the log."""

import json
import logging
import re
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s:%(request)s %(message)s"

current: ContextVar[str] = ContextVar("request_id", default="")

_SAFE = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


def choose(given: bytes | None) -> str:
    """The client's own id where it is short and harmless in a log, else a new one."""
    text = given.decode("latin-1") if given else ""
    return text if _SAFE.fullmatch(text) else f"req_{uuid.uuid4().hex}"


class AddRequestId(logging.Filter):
    """Gives each record `request`: " [id]", or nothing outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = current.get()
        record.request = f" [{request_id}]" if request_id else ""
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": moment,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current.get():
            fields["request_id"] = request_id
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def set_up_logging(level: str, *, as_json: bool = False) -> None:
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)
    for handler in logging.getLogger().handlers:
        handler.addFilter(AddRequestId())
        if as_json:
            handler.setFormatter(JsonFormatter())
