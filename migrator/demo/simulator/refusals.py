"""Refusals: the provider's own words, in its compatible and its native spelling, and the exception that carries one.

Floor 4. Source: Alibaba Cloud Model Studio's error page; the sentence about the batch size is quoted in many reports
(page-assist#371, LightRAG#1742, claude-context#177).
"""

from __future__ import annotations

from dataclasses import dataclass

_ALGO = "<400> InternalError.Algo.InvalidParameter: "


@dataclass(frozen=True, slots=True)
class Words:
    """One refusal: HTTP status, code in both spellings, message (a format over `given` and `limit`)."""

    name: str
    status: int
    code: str
    native: str
    message: str


REFUSALS = {
    each.name: each
    for each in (
        Words("bad_key", 401, "invalid_api_key", "InvalidApiKey", "Incorrect API key provided. "),
        Words("unknown_path", 404, "NotFound", "NotFound", "There is no such path."),
        Words(
            "unknown_model",
            404,
            "model_not_found",
            "ModelNotFound",
            "The model does not exist or you do not have access to it.",
        ),
        Words("no_json", 400, "invalid_request_error", "BadRequest.IllegalInput", "The body is no JSON object."),
        Words("no_texts", 400, "invalid_request_error", "BadRequest.EmptyInput", "Required input is missing or empty."),
        Words(
            "contents",
            400,
            "InvalidParameter",
            "InvalidParameter",
            f"{_ALGO}Value error, contents is neither str nor list of str.: input.contents",
        ),
        Words(
            "too_many_texts",
            400,
            "InvalidParameter",
            "InvalidParameter",
            f"{_ALGO}Value error, batch size is invalid, it should not be larger than {{limit}}.: input.contents",
        ),
        Words(
            "length",
            400,
            "InvalidParameter",
            "InvalidParameter",
            f"{_ALGO}Range of input length should be [1, {{limit}}]",
        ),
        Words("dimensions", 400, "InvalidParameter", "InvalidParameter", f"{_ALGO}invalid dimensions"),
        Words("text_type", 400, "InvalidParameter", "InvalidParameter", f"{_ALGO}text_type must be query or document"),
        Words("matryoshka", 400, "InvalidParameter", "InvalidParameter", f"{_ALGO}dimensions is not supported"),
        Words("encoding", 400, "InvalidParameter", "InvalidParameter", f"{_ALGO}encoding_format must be float"),
        Words(
            "moderated",
            400,
            "data_inspection_failed",
            "DataInspectionFailed",
            "Input text data may contain inappropriate content.",
        ),
        Words(
            "crash",
            500,
            "internal_error",
            "InternalError",
            "An internal error has occured, please try again later.",
        ),
        Words("server_error", 500, "internal_error", "InternalError", "An internal error has occured."),
        Words("unavailable", 503, "ServiceUnavailable", "ServiceUnavailable", "The service is unavailable."),
        Words("throttled", 429, "Throttling", "Throttling", "Too many requests in route. Please try again later."),
        Words(
            "requests_limit",
            429,
            "limit_requests",
            "Throttling.RateQuota",
            "You exceeded your current requests list. Requests rate limit exceeded, please try again later.",
        ),
        Words(
            "burst",
            429,
            "limit_burst_rate",
            "Throttling.BurstRate",
            "Request rate increased too quickly. To ensure system stability, please adjust your client logic.",
        ),
        Words(
            "tokens_limit",
            429,
            "insufficient_quota",
            "Throttling.AllocationQuota",
            "Allocated quota exceeded, please increase your quota limit.",
        ),
        Words(
            "free_quota",
            429,
            "insufficient_quota",
            "Throttling.AllocationQuota",
            "Free allocated quota exceeded.",
        ),
        Words(
            "arrears",
            400,
            "Arrearage",
            "Arrearage",
            "Access denied, please make sure your account is in good standing.",
        ),
        Words(
            "free_tier_only",
            403,
            "AllocationQuota.FreeTierOnly",
            "AllocationQuota.FreeTierOnly",
            "The free tier of the model has been exhausted.",
        ),
        Words("key_revoked", 401, "invalid_api_key", "InvalidApiKey", "Incorrect API key provided. "),
        Words(
            "quota_exhausted",
            429,
            "insufficient_quota",
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details.",
        ),
        Words("bill_overdue", 429, "PostpaidBillOverdue", "PostpaidBillOverdue", "The postpaid bill is overdue."),
    )
}


@dataclass(slots=True)
class Refused(Exception):
    """The request is refused; `given` and `limit` fill the message."""

    name: str
    given: str = ""
    limit: int = 0
    #: Seconds after which it may be asked again, as the client's clock runs.
    retry_seconds: float | None = None

    @property
    def words(self) -> Words:
        """What the provider says."""
        return REFUSALS[self.name]
