"""A log of many days: which of them an id is looked for in, and what of it was dropped."""

from alembic import op

revision = "0005"
down_revision = "0004"

FUNCTIONS = r"""
create function asked_from(id text) returns timestamptz language sql immutable strict parallel safe as
$$ select case when id ~ '^\d{5}-' then to_timestamp((left(id, 5)::int - 1) * 86400.0) else '-infinity' end $$;
create function asked_until(id text) returns timestamptz language sql immutable strict parallel safe as
$$ select case when id ~ '^\d{5}-' then to_timestamp((left(id, 5)::int + 2) * 86400.0) else 'infinity' end $$;
comment on function asked_from is 'no request of that id was made before; ids of the proxy begin with their day';
comment on function asked_until is 'every request of that id was made before';
"""
TABLES = """
alter table label_clock
  add column own_ids boolean not null default true,
  add column dated boolean not null default true;
alter table label_clock alter own_ids set default false, alter dated set default false;
comment on column label_clock.own_ids is 'whether a client ever gave an id of its own';
comment on column label_clock.dated is 'whether a label by key ever had an event time';
create table dropped_days (
  table_name text not null,
  day date not null,
  rows bigint not null,
  dropped_at timestamptz not null default now(),
  primary key (table_name, day)
);
comment on table dropped_days is 'days of the log that the declared retention ended';
"""


def upgrade() -> None:
    """Make the functions and columns."""
    for statements in (FUNCTIONS, TABLES):
        op.execute(statements)


def downgrade() -> None:
    """Remove them."""
    op.execute("drop table dropped_days; alter table label_clock drop column own_ids, drop column dated")
    op.execute("drop function asked_from(text); drop function asked_until(text)")
