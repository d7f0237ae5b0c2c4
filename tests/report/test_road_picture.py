"""The picture and the page of the road, from a record alone."""

import re

from groundup.history.compressors import Compressed
from groundup.history.road import Road
from groundup.history.study import Result
from groundup.report import road as drawn


def record(n: int) -> Road:
    """So many stops, some of the same year and nearly the same score."""
    results = [
        Result(
            key=f"stop{i}",
            name=f"Model & <{i}>",
            year=1948 + 5 * (i // 2),
            paper="a paper",
            family=("counting", "neural", "today")[i % 3],
            parameters=1000 * i,
            training_flops=None if i % 3 == 0 else 10 ** (9 + i),
            seconds=1.0,
            scoring_seconds=0.1,
            bits_per_byte=4.0 - 0.1 * (i // 2),
            interval=(3.0, 4.1) if i else None,
            n_bytes=5000,
            sample="<b>it writes\n",
            note="width 8",
        )
        for i in range(n)
    ]
    compressed = [Compressed("gzip -9", 2.5, 2.4, 1000), Compressed("xz -9e", 2.4, 2.39, 0)]
    return Road("stdlib", "0" * 32, {"train": 10**6, "validation": 10, "test": 5000}, 60.0, 5, {"cpu": "x"}, results, compressed)


def test_files_are_written_and_whole(tmp_path):
    files = drawn.write_road(record(9), tmp_path)
    assert [file.name for file in files] == ["history.png", "history.html"]
    assert files[0].read_bytes()[:4] == b"\x89PNG"
    page = files[1].read_text()
    assert "<svg" in page and "&lt;b&gt;it writes" in page and "<b>it" not in page
    assert not re.search(r'(?:src|href)="(?:http|//)', page)
    for i in range(9):
        assert f"Model &amp; &lt;{i}&gt;" in page


def test_a_road_of_one_stop_or_none_is_drawn():
    for n in (0, 1):
        assert drawn.draw_road(record(n)).png[:4] == b"\x89PNG"


def test_rectangles_share_an_area():
    assert drawn._overlap((0, 0, 2, 2), (1, 1, 5, 5)) == 1
    assert drawn._overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
