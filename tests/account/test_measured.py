"""What the doctor found out, in a file: written, read again, and refused with what to do."""

import json
from dataclasses import asdict, replace

import pytest

from groundup.account import Ceilings, find_ceilings, find_device
from groundup.account.measured import Measured, cache_folder, load_measured, save_measured
from groundup.errors import UsageError

CEILINGS = Ceilings(
    "two cores",
    "fp32",
    ((4.0, 1e9), (64.0, 2e9)),
    ((1e5, 3e10), (1e8, 1e10)),
    1e-5,
    (("exponentials", 4e8), ("heads", 3e8)),
    peak_flops=4e9,
    workers=2,
)
MEASURED = Measured("cpu", 2, 8 << 30, "2026-11-27", "2.9.0", (CEILINGS,))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_is_written_is_read(folder):
    path = save_measured(MEASURED)
    assert path.parent == folder and load_measured() == load_measured("cpu") == MEASURED
    assert find_ceilings("here") == CEILINGS


def test_this_machine_is_a_device_like_any_other():
    save_measured(MEASURED)
    device = find_device("here")
    assert device.peak("fp32") == 4e9 and device.bandwidth_bytes_per_s == 1e10 and device.memory_bytes == 8 << 30
    assert device.half_precision == "fp32" and device.usd_per_hour == pytest.approx(0.08) and "doctor" in device.source


def test_here_is_the_gpu_where_there_is_one():
    save_measured(MEASURED)
    gpu = Measured("cuda", 1, 80 << 30, "2026-11-27", "2.9.0", (CEILINGS,), 1e11, 8)
    save_measured(gpu)
    assert load_measured("here") == gpu and load_measured("cpu") == MEASURED
    assert find_device("cuda").interconnect == "all-reduce over 8 ranks"


@pytest.mark.parametrize("key", ["here", "cpu", "cuda", "HERE"])
def test_without_a_measurement_the_doctor_is_named(key):
    for find in (find_device, find_ceilings):
        with pytest.raises(UsageError, match="groundup doctor"):
            find(key)


EMPTY = json.dumps(asdict(MEASURED) | {"ceilings": []})
NO_NUMBER = json.dumps(asdict(replace(MEASURED, ceilings=(replace(CEILINGS, dispatch_s=float("nan")),))))


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"kind": "cpu"}), EMPTY, NO_NUMBER])
def test_a_damaged_file_is_named(folder, text):
    folder.mkdir()
    (folder / "machine-cpu.json").write_text(text)
    with pytest.raises(UsageError, match=r"machine-cpu\.json.*groundup doctor"):
        load_measured()


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("GROUNDUP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "groundup"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == tmp_path / "me" / ".cache" / "groundup"


def test_devices_of_the_table_need_no_measurement():
    assert find_ceilings("v100").precision == "fp16" and find_ceilings("h100").precision == "bf16"
    with pytest.raises(UsageError, match="here"):
        find_device("abacus")
