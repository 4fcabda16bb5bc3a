import os
import resource
import subprocess
import sys
import textwrap

import pytest

from pipelines.predictions import spool
from pipelines.predictions.spool import FolderSpool, Header, Labels, Predictions, SpoolFull

HEADER = Header("calories", "a", "3", "digest", ("Age",), ("calories",))


def record(name: str = "r", pad: int = 0) -> Predictions:
    return Predictions(name + "x" * pad, 1, 2, [0], [None], ["k"], [None], [[68.0]], [[1.5]])


def everything(folder) -> list[str]:
    return [each.request_id for each in spool.read_all(folder) if isinstance(each, Predictions)]


def test_what_was_appended_is_read_back(tmp_path):
    writer = FolderSpool(tmp_path, HEADER)
    labels = Labels(5, "api", [("p", None, None, 1.0, 4)])
    writer.append(record())
    writer.append(labels)
    (segment,) = spool.segments(tmp_path)
    assert spool.beginning(segment).header == HEADER
    assert list(spool.read_all(tmp_path)) == [record(), labels]


def test_reading_goes_on_behind_an_offset(tmp_path):
    writer = FolderSpool(tmp_path, HEADER)
    for name in "abc":
        writer.append(record(name))
    (segment,) = spool.segments(tmp_path)
    first = next(spool.read(segment, spool.beginning(segment).end))
    assert [frame.record.request_id for frame in spool.read(segment, first.end)] == ["b", "c"]
    assert [frame.record.request_id for frame in spool.read(segment, first.end, most=10)] == ["b"]


def test_a_segment_is_finished_when_its_writer_let_go_of_it(tmp_path):
    writer = FolderSpool(tmp_path, HEADER)
    writer.append(record())
    (segment,) = spool.segments(tmp_path)
    assert not spool.finished(segment)
    writer.close()
    assert spool.finished(segment)


def test_segments_are_rotated_by_size_and_read_in_order(tmp_path):
    writer = FolderSpool(tmp_path, HEADER, segment=300)
    names = [f"{number:03}" for number in range(30)]
    for name in names:
        writer.append(record(name))
    assert len(spool.segments(tmp_path)) > 3
    assert everything(tmp_path) == names


def test_a_full_folder_refuses_until_something_was_shipped(tmp_path):
    writer = FolderSpool(tmp_path, HEADER, segment=300, total=900)
    with pytest.raises(SpoolFull):
        for _ in range(100):
            writer.append(record())
    spool.segments(tmp_path)[0].unlink()
    writer.append(record("again"))
    assert everything(tmp_path)[-1] == "again"


def test_a_full_disk_leaves_no_half_record(tmp_path):
    writer = FolderSpool(tmp_path, HEADER)
    writer.append(record("first"))
    (segment,) = spool.segments(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 10, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(SpoolFull):
                writer.append(record("lost"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.append(record("second"))
    assert everything(tmp_path) == ["first", "second"]


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_torn_end_is_left_out_and_other_segments_are_read(tmp_path, cut):
    for name in ("a", "b"):
        writer = FolderSpool(tmp_path, HEADER)
        writer.append(record(name))
        writer.append(record(name + "2"))
        writer.close()
    torn = spool.segments(tmp_path)[0]
    os.truncate(torn, torn.stat().st_size - cut)
    assert everything(tmp_path) == ["a", "b", "b2"]


def test_a_damaged_frame_is_not_believed(tmp_path):
    writer = FolderSpool(tmp_path, HEADER)
    writer.append(record("a"))
    writer.append(record("b"))
    (segment,) = spool.segments(tmp_path)
    content = bytearray(segment.read_bytes())
    content[-3] ^= 0xFF
    segment.write_bytes(content)
    assert everything(tmp_path) == ["a"]


def test_a_record_survives_the_death_of_its_writer(tmp_path):
    code = f"""
        import os, signal
        from pathlib import Path
        from pipelines.predictions.spool import FolderSpool
        from tests.unit.test_spool import HEADER, record
        FolderSpool(Path({str(tmp_path)!r}), HEADER).append(record("kept"))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    (segment,) = spool.segments(tmp_path)
    assert spool.finished(segment)
    assert everything(tmp_path) == ["kept"]
