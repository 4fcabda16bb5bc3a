"""How supervisord's files are written."""

import configparser
from pathlib import Path

from pipelines.machine.keeper import parse
from pipelines.machine.services import Service
from pipelines.machine.supervisor import render_main, render_program
from pipelines.settings import Home

HOME = Home(Path("/tmp/a home"))
SERVICE = Service(
    "echo",
    ("/bin/echo", "50 %", 'a "quoted" word'),
    {"PASSWORD": "secret words"},
    after=("pg:1", "http:2/x"),
    stop="INT",
    grace=7,
    account="nobody",
    lock=Path("/data/postmaster.pid"),
)


def read(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.read_string(text)
    return parser


def test_a_keeper_understands_what_a_services_file_tells_it() -> None:
    import shlex

    text = render_program(HOME, SERVICE, Path("/v.json"), Path("/n.note"))
    command = shlex.split(read(text)["program:echo"]["command"].replace("%%", "%"))
    order = parse(command[3:])
    assert order.command == SERVICE.command
    assert (order.after, order.grace, order.account) == (SERVICE.after, SERVICE.grace, SERVICE.account)
    assert (order.stop.name, order.lock, order.environment) == ("SIGINT", SERVICE.lock, Path("/v.json"))


def test_no_variable_stands_in_a_services_file() -> None:
    assert "secret words" not in render_program(HOME, SERVICE, Path("/v.json"), Path("/n.note"))


def test_supervisord_listens_on_a_socket_for_its_owner_alone() -> None:
    main = read(render_main(HOME, Path("/tmp/s.sock"), Path("/tmp/enabled")))
    assert dict(main["unix_http_server"]) == {"file": "/tmp/s.sock", "chmod": "0700"}
    assert not main.has_section("inet_http_server")
