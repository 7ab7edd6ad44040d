"""Every error a caller can see, with its HTTP status and OpenAI `type` and `code`.

    TriviumError
    ├── InvalidRequest                400  invalid_request_error
    │   ├── UnknownParameter          400  unknown_parameter
    │   ├── UnsupportedParameter      400  unsupported_parameter
    │   ├── ContextLengthExceeded     400  context_length_exceeded
    │   ├── Conflict                  400  conflict
    │   └── KnowledgeRefused          400  knowledge_refused
    ├── Unauthenticated               401  invalid_api_key
    ├── PermissionDenied              403  insufficient_scope
    │   ├── RoadBarred                403  road_barred
    │   └── TooManyCollections        403  too_many_collections
    ├── NotFound                      404  not_found
    │   └── ModelNotFound             404  model_not_found
    ├── BodyTooLarge                  413  body_too_large
    ├── UnprocessableDocument         422  unprocessable_document
    ├── Overloaded                    429  overloaded
    ├── TooManyFailures               429  too_many_failures
    ├── BudgetExceeded                429  budget_exceeded
    ├── Unavailable                   503  service_unavailable
    │   ├── FrontierNotConfigured     503  frontier-not-configured
    │   ├── FrontierRefused           503  refused
    │   ├── FrontierResting           503  resting
    │   ├── AdapterUnusable           503  adapter_unusable
    │   ├── FormatBroken              503  format
    │   ├── RoleUnfilled              503  unfilled
    │   ├── KnowledgeUnavailable      503  knowledge_unavailable
    │   ├── LedgerUnavailable         503  ledger_unavailable
    │   ├── ClaimLost                 503  service_unavailable
    │   ├── ReplicaDied               503  service_unavailable
    │   └── DeadlineExceeded          503  deadline_exceeded
    ├── InternalError                 500  internal_error
    └── SettingsError                 (start-up only, never on the wire)

Messages are written for the caller: they say what to do and show no internals.
"""

from __future__ import annotations

from typing import ClassVar


class TriviumError(Exception):
    """Base of the tree.

    Args:
        message: What happened and what the caller can do about it.
        param: Request field at fault, as the caller wrote it (`messages[0].role`).
        retry_after_s: Seconds after which the same request may succeed.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        # All three go to args, so that an error raised in another process unpickles whole.
        super().__init__(message, param, retry_after_s)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message

    def reword(self, old: str, new: str) -> None:
        """Say something by another name."""
        self.message = self.message.replace(old, new)
        self.args = (self.message, *self.args[1:])

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The OpenAI error body."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class InvalidRequest(TriviumError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class Conflict(InvalidRequest):
    """What is asked for does not go with what is under way."""

    code = "conflict"


class KnowledgeRefused(InvalidRequest):
    """The vector database will not have this, however often it is sent."""

    code = "knowledge_refused"


class Unauthenticated(TriviumError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class PermissionDenied(TriviumError):
    status, type, code = 403, "permission_error", "insufficient_scope"


class RoadBarred(PermissionDenied):
    """A pin of the policy forbids the road that the caller named."""

    code = "road_barred"


class TooManyCollections(PermissionDenied):
    """The tenant may use the collections it has, and make no more."""

    code = "too_many_collections"


class NotFound(TriviumError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class BodyTooLarge(TriviumError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnprocessableDocument(TriviumError):
    status, type, code = 422, "invalid_request_error", "unprocessable_document"


class Overloaded(TriviumError):
    status, type, code = 429, "rate_limit_error", "overloaded"


class TooManyFailures(TriviumError):
    """This client address has sent too many wrong API keys of late."""

    status, type, code = 429, "rate_limit_error", "too_many_failures"


class BudgetExceeded(TriviumError):
    """A limit on requests, tokens or dollars leaves no room for this."""

    status, type, code = 429, "insufficient_quota", "budget_exceeded"


class Unavailable(TriviumError):
    status, type, code = 503, "service_unavailable_error", "service_unavailable"


class FrontierNotConfigured(Unavailable):
    code = "frontier-not-configured"


class FrontierRefused(Unavailable):
    """The provider turns us away: a wrong key, or a model that it does not have."""

    code = "refused"


class FrontierResting(Unavailable):
    """The provider has failed so often that it is left alone for a while."""

    code = "resting"


class AdapterUnusable(Unavailable):
    """A release that cannot be served: damaged, of another base, or refused by the engine."""

    code = "adapter_unusable"


class FormatBroken(Unavailable):
    """An answer that breaks the adapter's contract, after one repair."""

    code = "format"


class RoleUnfilled(Unavailable):
    """A model's answer to a question of ours is none."""

    code = "unfilled"


class KnowledgeUnavailable(Unavailable):
    """A question needs facts, and they cannot be looked up now."""

    code = "knowledge_unavailable"


class LedgerUnavailable(Unavailable):
    """What an answer costs cannot be written down, so nothing that costs may be done."""

    code = "ledger_unavailable"


class ClaimLost(Unavailable):
    """A document took so long to write that another writer has it now."""


class ReplicaDied(Unavailable):
    """A process of ours has gone with the work that it had; a provider may go on with it."""


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"


class InternalError(TriviumError):
    """We failed. The request id is in the response; the cause is in the log only."""


class SettingsError(TriviumError):
    """A settings file or environment variable cannot be used; the message names the place."""
