"""Rollouts: what became of each challenger and why, what people ordered, and what the judge has seen."""

from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = """
create table rollouts (
  use_case text not null,
  began timestamptz not null,
  version text not null,
  against text not null,
  state jsonb not null,
  ended_at timestamptz,
  outcome text,
  why text,
  pictured_at timestamptz,
  primary key (use_case, began)
);
comment on column rollouts.state is 'stage, plan and whatever else decides, as of its last change';
comment on column rollouts.pictured_at is 'when its picture was last put beside the version''s training run';
create table rollout_changes (
  id bigint generated always as identity primary key,
  use_case text not null,
  began timestamptz not null,
  at timestamptz not null,
  version text not null,
  stage_before text,
  stage_after text,
  percent double precision not null,
  kind text not null,
  who text not null,
  why text not null,
  evidence jsonb
);
create index on rollout_changes (use_case, began, id);
comment on column rollout_changes.evidence is 'the verdict that decided, with its numbers';
create table rollout_orders (
  id bigint generated always as identity primary key,
  use_case text not null,
  at timestamptz not null,
  kind text not null,
  version text,
  stage text,
  who text not null,
  why text not null,
  settled text
);
create index on rollout_orders (use_case, id) where settled is null;
create table rollout_sums (
  use_case text not null,
  began timestamptz not null,
  since timestamptz not null,
  sums jsonb not null,
  looked_at timestamptz,
  verdict jsonb,
  primary key (use_case, began)
);
comment on table rollout_sums is 'what the judge has counted so far, up to which record, and what it says of it';
comment on column rollout_sums.since is 'begin of the stage that sums and verdict are about';
create table rollout_looks (
  use_case text not null,
  began timestamptz not null,
  at timestamptz not null,
  stage text not null,
  verdict jsonb not null,
  primary key (use_case, began, at)
);
comment on table rollout_looks is 'verdicts over time, ever more sparsely: enough to draw them';
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Remove them."""
    op.execute("drop table rollout_looks, rollout_sums, rollout_orders, rollout_changes, rollouts")
