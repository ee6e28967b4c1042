"""Errors the engine raises, and the HTTP status each becomes.

EngineError
├─ InvalidPromptError      400  the caller's fault; `param` names the request field
├─ QueueFullError          429  no room now; `retry_after_s` says when to try again
├─ GenerationFailedError   500  this utterance failed, others go on
└─ EngineDeadError         503  the worker is gone or restarting; `retry_after_s` likewise
"""


class EngineError(Exception):
    """Root of everything the engine raises on purpose."""


class InvalidPromptError(EngineError):
    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class QueueFullError(EngineError):
    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationFailedError(EngineError):
    pass


class EngineDeadError(EngineError):
    def __init__(self, message: str, retry_after_s: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CheckpointError(EngineError):
    """A checkpoint cannot be loaded; the message names the file or tensor and the fix. Start-up
    only.
    """
