"""What people were told, and which trainings labels asked for; each once."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
create table notices (
    key text primary key,
    at timestamptz not null,
    severity text not null,
    title text not null,
    body text not null
);
create table label_claims (
    use_case text not null,
    at timestamptz not null,
    labels bigint not null,
    primary key (use_case, at)
);
comment on table label_claims is 'labels that came since the claim before, when they were enough for a training';
"""


def upgrade() -> None:
    """Create the tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them."""
    op.execute("drop table label_claims; drop table notices")
