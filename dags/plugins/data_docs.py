"""Airflow's pages of Great Expectations: what each validation found, for whoever is signed in.

The pages load nothing from elsewhere: their styles on public servers stay out, what they say does not.
"""

import re
import sys
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from pipelines import settings

PREFIX = "/data-docs"
ALONE = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
MOST = 200


def pages_of(docs: Path) -> Any:
    """The pages below a folder, as an application of its own."""
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import FileResponse, HTMLResponse, Response

    app = FastAPI(dependencies=[Depends(get_user)], openapi_url=None)

    def folder(use_case: str, table: str) -> Path:
        if not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in (use_case, table)):
            raise HTTPException(404, "no such table")
        return docs / use_case / table

    @app.get("/{use_case}/{table}/{page}")
    def page(use_case: str, table: str, page: str) -> Response:
        """One page; 404 for what is none."""
        file = folder(use_case, table) / page
        if not re.fullmatch(r"\d+\.html", page) or not file.is_file():
            raise HTTPException(404, f"no page {page} of {use_case} {table}")
        return FileResponse(file, headers=ALONE)

    @app.get("/{use_case}/{table}")
    def pages(use_case: str, table: str) -> Response:
        """The newest pages of one table."""
        files = sorted(folder(use_case, table).glob("*.html"), reverse=True)[:MOST]
        title = escape(f"{use_case} {table}")
        links = "".join(f'<li><a href="{table}/{file.name}">batch {int(file.stem)}</a></li>' for file in files)
        body = f"<title>{title}</title><h1>{title}</h1><ul>{links or 'no batch yet'}</ul>"
        return HTMLResponse(body, headers=ALONE)

    return app


class DataDocs(AirflowPlugin):  # type: ignore[misc]
    """Mounts the pages beside Airflow's own, where Airflow's own are served: every task loads plugins too."""

    name = "data_docs"
    fastapi_apps: ClassVar[list[Any]] = (
        [{"app": pages_of(settings.load().at.docs), "url_prefix": PREFIX, "name": "Data Docs"}]
        if "api-server" in sys.argv
        else []
    )
