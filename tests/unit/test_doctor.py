"""`doctor` finds what is wrong with an installation and says how to mend it."""

import os
import time

import pytest

from pipelines import settings as settings_of
from pipelines.machine import doctor, postgres, secrets
from pipelines.predictions.spool import FolderSpool, Header


@pytest.fixture
def settings(home):
    secrets.generate(home)
    home.version.write_text("2\n")
    return settings_of.load(home=home.root, base_port=61000)


def found(settings, what):
    return [one for one in doctor.examine(settings) if one.what == what]


def bad(settings):
    strays = ("stray database",)  # other homes of this machine
    return {one.what: one.told for one in doctor.examine(settings) if not one.fine and one.what not in strays}


def test_a_sound_home_has_nothing_wrong(settings):
    assert bad(settings) == {}


def test_a_package_of_another_version_is_named_with_its_cure(settings, tmp_path, monkeypatch):
    lock = tmp_path / "requirements.txt"
    pins = ("numpy==1.0 ; python_version >= '3.11' \\", "    --hash=sha256:0", "nobody-has-this==3")
    lock.write_text("\n".join([*pins, "old==1 ; python_version < '3'", ""]))
    monkeypatch.setattr(doctor, "LOCK", lock)
    told = bad(settings)["lock"]
    assert "numpy is " in told
    assert "not ==1.0, nobody-has-this is not installed: `make install`" in told
    assert "old" not in told.replace("nobody", "")


def test_secrets_that_others_may_read_are_named(settings):
    settings.at.secrets.joinpath("airflow-jwt").chmod(0o644)
    assert "airflow-jwt: chmod go=" in bad(settings)["secrets"]


def test_a_clock_that_was_set_back_is_noticed(settings):
    settings.at.logs.mkdir()
    os.utime(settings.at.logs, (time.time() + 7200,) * 2)
    assert "the clock was set back" in bad(settings)["clock"]


def test_answers_that_wait_for_the_log_are_a_backlog_and_an_open_segment_is_none(settings):
    folder = settings.at.spool / "calories" / "a"
    spool = FolderSpool(folder, Header("calories", "a", "1", "d", (), ()))
    spool._open_next()
    (segment,) = folder.glob("*.spool")
    os.utime(segment, (time.time() - 3600,) * 2)
    assert "spool" not in bad(settings)
    spool.close()
    assert "1 spool files wait" in bad(settings)["spool"]
    segment.rename(segment.with_suffix(".torn"))
    assert "1 files end in a torn record" in bad(settings)["torn records"]


def test_what_a_kill_left_half_made_is_named_when_it_is_old(settings):
    settings.at.places.mkdir()
    left = settings.at.places / ".unpacking-x"
    left.mkdir()
    assert "half-made files" not in bad(settings)
    os.utime(left, (time.time() - 7200,) * 2)
    assert str(left) in bad(settings)["half-made files"]


def test_a_taken_port_and_a_newer_home_are_said(settings, monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.ports.mlflow))
        taken.listen()
        assert "61002 (mlflow) is taken" in bad(settings)["ports"]
    settings.at.version.write_text("99\n")
    assert "made by a newer Touchline (layout 99)" in bad(settings)["home"]


def test_a_database_folder_whose_home_is_gone_is_named_and_somebody_elses_is_left_alone(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(postgres, "SYSTEM", tmp_path)
    (tmp_path / "home-1").mkdir()
    (tmp_path / "home-1" / "home").write_text(str(tmp_path / "gone"))
    (stray,) = found(settings, "stray database")
    assert "home-1" in stray.told
    real = type(tmp_path).exists
    monkeypatch.setattr(
        type(tmp_path), "exists", lambda path: _closed(path) if "gone" in str(path) else real(path)
    )
    assert found(settings, "stray database") == []


def _closed(path):
    raise PermissionError(path)
