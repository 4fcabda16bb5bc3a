"""Quality in cells that are kept up row by row, and labels that come from tables."""

from alembic import op

revision = "0003"
down_revision = "0002"

ADDED = """
create function added(float8[], float8[]) returns float8[] language sql immutable strict parallel safe as
$$ select array_agg(one + other order by place) from unnest($1, $2) with ordinality as pair(one, other, place) $$;
comment on function added is 'two vectors, element by element';
create aggregate total(float8[]) (sfunc = added, stype = float8[]);
"""
CELLS = """
create table cells (
  use_case text not null,
  minutes integer not null,
  starts_at timestamptz not null,
  model_version text not null,
  role text not null,
  slice text not null,
  recorded bigint not null,
  superseded bigint not null,
  labelled bigint not null,
  late bigint not null,
  sums float8[] not null,
  primary key (use_case, minutes, starts_at, model_version, role, slice)
);
comment on table cells is 'what the requests of a time came to, per version, role and slice; all of it adds up';
comment on column cells.minutes is 'how long the time is: 5, 60, 1440; 0: all there ever was';
comment on column cells.role is 'what the place was taken for; shadow: replayed; direct: no proxy asked';
comment on column cells.sums is 'in the order of pipelines/predictions/sums.py';
"""
CLOCK = """
alter table label_clock
  add column definition text,
  add column labels bigint not null default 0,
  add column orphans bigint not null default 0,
  add column keyed bigint not null default 0,
  add column waiting bigint not null default 0;
comment on column label_clock.definition is
  'digest of loss, metrics, slices and horizon; when it changes the use case''s cells are worked out anew';
comment on column label_clock.orphans is 'labels of ids that no record has';
comment on column label_clock.waiting is 'labels by key that meet no record';
create index on labels (use_case, entity_key, event_time, observed_at) where prediction_id is null;
drop index labels_use_case_entity_key_idx;
create table hand_overs (
  use_case text not null,
  table_name text not null,
  batch bigint not null,
  handed_at timestamptz not null default now(),
  primary key (use_case, table_name)
);
comment on table hand_overs is 'up to which batch of a table its rows were handed over as labels';
"""


def upgrade() -> None:
    """Make the tables; the label clock fills the cells from the rows that are there."""
    for statements in (ADDED, CELLS, CLOCK):
        op.execute(statements)


def downgrade() -> None:
    """Remove them; labels by key wait again."""
    op.execute(
        "create index labels_use_case_entity_key_idx on labels (use_case, entity_key) where entity_key is not null"
    )
    op.execute("drop index labels_use_case_entity_key_event_time_observed_at_idx")
    op.execute("alter table label_clock drop column definition, drop column labels, drop column orphans")
    op.execute("alter table label_clock drop column keyed, drop column waiting")
    op.execute(
        "drop table hand_overs, cells; drop aggregate total(float8[]); drop function added(float8[], float8[])"
    )
