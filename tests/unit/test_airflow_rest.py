"""How Airflow's answers become errors of the platform."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.adapters.airflow_rest import AirflowRest
from pipelines.errors import Final, ServiceAway


@contextmanager
def answering(*replies: tuple[int, object]) -> Generator[AirflowRest, None, None]:
    """An HTTP server that gives these replies, one a request, the last for ever."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield AirflowRest(f"http://127.0.0.1:{server.server_port}", "admin", "word")
        finally:
            server.shutdown()
            thread.join()


TOKEN = (201, {"access_token": "t"})


def test_an_ended_token_is_renewed_once() -> None:
    with answering(TOKEN, (401, {}), TOKEN, (200, {"dags": [{"dag_id": "a"}]})) as airflow:
        assert airflow.dags() == {"a"}


def test_a_wrong_password_is_final() -> None:
    with (
        answering((401, {"detail": "Invalid"})) as airflow,
        pytest.raises(Final, match="password"),
    ):
        airflow.dags()


def test_a_refusal_is_final_and_says_what_airflow_said() -> None:
    with (
        answering(TOKEN, (404, {"detail": "no such dag"})) as airflow,
        pytest.raises(Final, match=r"404.*no such dag"),
    ):
        airflow.trigger("x")


def test_an_airflow_in_trouble_may_come_back() -> None:
    with answering(TOKEN, (503, {})) as airflow, pytest.raises(ServiceAway, match="503"):
        airflow.dags()


def test_an_airflow_that_is_gone_may_come_back() -> None:
    with answering(TOKEN) as airflow:
        pass
    assert not airflow.is_up()
    with pytest.raises(ServiceAway, match="does not answer"):
        airflow.dags()
