"""What the keeper reads and writes."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from pipelines.machine import keeper


def test_all_after_the_dashes_belongs_to_the_service(tmp_path: Path) -> None:
    told = f"api --note {tmp_path} --after pg:1 --after tcp:2 --stop INT --grace 3 -- airflow -- -x"
    order = keeper.parse(told.split())
    assert order.command == ("airflow", "--", "-x")
    assert (order.name, order.after, order.stop, order.grace) == ("api", ("pg:1", "tcp:2"), signal.SIGINT, 3)


def test_a_keeper_without_a_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        keeper.parse(["api", "--note", str(tmp_path)])


def test_a_note_finds_only_the_very_same_process(tmp_path: Path) -> None:
    me, note = keeper.seen(os.getpid()), tmp_path / "note"
    assert me is not None
    keeper.take_note(note, 0, [me])
    assert keeper.noted(note) == [me]
    keeper.take_note(note, 0, [me._replace(started=me.started + 1)])
    assert keeper.noted(note) == []


def test_a_note_of_another_boot_means_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me, note = keeper.seen(os.getpid()), tmp_path / "note"
    assert me is not None
    keeper.take_note(note, 0, [me])
    monkeypatch.setattr(keeper, "boot", lambda: "another")
    assert keeper.noted(note) == []


def test_a_session_whose_number_was_given_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    note = tmp_path / "note"
    keeper.take_note(note, os.getsid(0), [])
    assert keeper.noted(note) == []


def test_a_torn_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "note").write_text('{"boot": ')
    assert keeper.noted(tmp_path / "note") == []


def test_a_pid_file_of_somebody_else_is_removed_and_of_the_owner_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n")
    monkeypatch.chdir(tmp_path)
    keeper.release(lock)
    assert lock.exists()
    monkeypatch.chdir("/")
    keeper.release(lock)
    assert not lock.exists()


@pytest.mark.parametrize(
    ("reply", "needs", "there"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "http:{}/health", True),
        (b"HTTP/1.1 503 Not yet\r\n\r\n", "http:{}/health", False),
        (b"R\0\0\0", "pg:{}", True),
        (b"E\0\0\0", "pg:{}", False),
        (b"", "tcp:{}", True),
    ],
)
def test_only_a_service_that_works_counts_as_there(reply: bytes, needs: str, there: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                if reply:
                    line.recv(1024)
                    line.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        assert keeper.answers(needs.format(server.getsockname()[1])) is there
        thread.join()


def test_nothing_is_there_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert not keeper.answers(f"tcp:{port}")
