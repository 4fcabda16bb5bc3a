"""The platform's own tables, by Alembic; each revision is plain SQL."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

_ONE_AT_A_TIME = 7_400_001
"""Key of the advisory lock: two that upgrade at once do it one after the other."""


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to a revision, the newest by default; a second call changes nothing.

    `url` is in libpq form, `postgresql://user:password@host:port/name`.
    """
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
