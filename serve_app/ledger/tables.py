"""The ledger's tables. `migrations/` makes and alters them; a test compares the two.

Money is whole nanodollars (1e-9 USD), so that sums are exact; times are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

_ID = String(32)  # a UUID's 32 hex digits
_NAME = String(128)

# One row for each question, from when it is let in. `open` until it ends; whose process died
# meanwhile is `lost` once its lease is over. A request that is no question has one too: its
# `asked_model` is the path that was asked, and it ends as `served`.
answers = Table(
    "answers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("request_id", _NAME, nullable=False),
    Column("trace_id", String(32)),
    Column("started_at", Float, nullable=False),
    Column("day", String(10), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("tenant", _NAME, nullable=False),
    Column("api_key", _NAME, nullable=False),
    Column("status", String(16), nullable=False),
    Column("asked_model", _NAME, nullable=False),
    Column("route", String(16)),
    Column("confidence", Float),
    Column("router_version", String(80)),
    Column("model", _NAME),
    Column("adapter", _NAME),
    Column("degraded", Text, nullable=False, default=""),
    Column("finish_reason", String(16)),
    Column("citations", Integer),
    Column("cost_nanos", BigInteger),
    Column("baseline_nanos", BigInteger),
    Column("all_frontier_nanos", BigInteger),
    Column("seconds", Float),
    Column("stages_ms", JSON),
    Column("good", Boolean),
    Column("judge", String(32)),
    Index("answers_by_time", "started_at"),
    Index("answers_by_request", "tenant", "request_id"),
    Index("answers_by_lease", "status", "lease_until"),
)

SERVED = "served"
is_question = ~answers.c.asked_model.startswith("/")

# One row for each call of a model, from before it is made: what it may cost at most is held until
# what it did cost is known.
calls = Table(
    "calls",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("answer_id", _ID, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("tenant", _NAME, nullable=False),
    Column("api_key", _NAME, nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", _NAME, nullable=False),
    Column("provider_id", _NAME),
    Column("purpose", String(32), nullable=False),
    Column("adapter", _NAME),
    Column("held_nanos", BigInteger, nullable=False),
    Column("held_tokens", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("completion_tokens", BigInteger, nullable=False, default=0),
    Column("reasoning_tokens", BigInteger, nullable=False, default=0),
    Column("estimated", Boolean, nullable=False, default=False),
    Column("cost_nanos", BigInteger, nullable=False, default=0),
    Column("machine_seconds", Float, nullable=False, default=0.0),
    Index("calls_by_answer", "answer_id"),
    Index("calls_by_lease", "status", "lease_until"),
)

# What each key, each tenant and the house have spent, and hold, in each minute, day and month.
counters = Table(
    "counters",
    metadata,
    Column("scope", String(160), primary_key=True),
    Column("period", String(24), primary_key=True),
    Column("requests", BigInteger, nullable=False, default=0),
    Column("tokens", BigInteger, nullable=False, default=0),
    Column("held_tokens", BigInteger, nullable=False, default=0),
    Column("nanos", BigInteger, nullable=False, default=0),
    Column("held_nanos", BigInteger, nullable=False, default=0),
    Index("counters_by_period", "period"),
)

# What was set right by hand (`trivium cost correct`): who audits an invoice reads why.
corrections = Table(
    "corrections",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("call_id", _ID, nullable=False),
    Column("corrected_at", Float, nullable=False),
    Column("note", Text, nullable=False),
    Column("prompt_tokens_before", BigInteger, nullable=False),
    Column("completion_tokens_before", BigInteger, nullable=False),
    Column("cost_nanos_before", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Index("corrections_by_call", "call_id"),
)

# API keys: of the key itself only its SHA-256 is kept. That needs no salt and no slow hash, because
# a key is 256 random bits and not a password.
keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("name", _NAME, nullable=False),
    Column("tenant", _NAME, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("groups", JSON, nullable=False, server_default="[]"),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

# Jobs that bring documents in from addresses. `running` while a gateway has it: one whose lease is
# over is anybody's, and goes on where it stood.
jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("tenant", _NAME, nullable=False),
    Column("collection", String(63), nullable=False),
    Column("api_key", _NAME, nullable=False),
    Column("groups", JSON, nullable=False),
    Column("allow", JSON, nullable=False),
    Column("source", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("problem", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("runner", _ID),
    Column("lease_until", Float, nullable=False),
    Column("removed", Integer, nullable=False),
    Index("jobs_by_collection", "tenant", "collection", "created_at"),
    Index("jobs_by_lease", "status", "lease_until"),
)

# One row for each address of a job, in its order: `pending`, `in` or `failed`.
job_urls = Table(
    "job_urls",
    metadata,
    Column("job_id", _ID, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("url", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("problem", Text, nullable=False),
    Column("left_out", Text, nullable=False, server_default=""),
    Column("documents", JSON, nullable=False),
    Column("chunks", Integer, nullable=False),
)

# How sources that are kept in step stand (`trivium sync`): `seen` is how far each was read.
sync_sources = Table(
    "sync_sources",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("collection", String(63), nullable=False),
    Column("seen", JSON, nullable=False),
    Column("first_at", Float, nullable=False),
    Column("tried_at", Float, nullable=False),
    Column("synced_at", Float),
    Column("failures", Integer, nullable=False),
    Column("problem", Text, nullable=False),
)
