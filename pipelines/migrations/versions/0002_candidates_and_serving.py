"""Candidates with their evidence, what serves, and events that a person should be able to read later."""

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
create table candidates (
    training_key text primary key,
    use_case text not null,
    evidence jsonb not null,
    created_at timestamptz not null default now()
);
create unique index candidates_version on candidates (use_case, (evidence ->> 'version'))
    where evidence ->> 'version' is not null;
create table serving (
    use_case text primary key,
    generation bigint not null,
    state jsonb not null,
    changed_at timestamptz not null default now()
);
create table events (
    id bigint generated always as identity primary key,
    at timestamptz not null,
    use_case text not null,
    kind text not null,
    message text not null
);
create index events_by_use_case on events (use_case, id desc);
"""


def upgrade() -> None:
    """Create the tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them."""
    op.execute("drop table events; drop table serving; drop table candidates")
