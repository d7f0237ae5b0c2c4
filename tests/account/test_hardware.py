import subprocess
import sys

import pytest

from groundup.account import DEVICES, cpu, detect, find_device, usable_cores
from groundup.account import hardware as machine
from groundup.errors import UsageError


@pytest.mark.parametrize(
    "driver_name, key",
    [
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
    ],
)
def test_a_device_is_known_by_its_drivers_name(driver_name, key):
    assert detect(driver_name) == find_device(key)


@pytest.mark.parametrize(
    "driver_name",
    [
        "NVIDIA GH200 480GB",
        "NVIDIA GB200",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA L4",
        "",
    ],
)
def test_a_relative_of_a_known_device_is_not_taken_for_it(driver_name):
    assert detect(driver_name) is None


def test_the_drivers_memory_replaces_the_datasheets():
    assert detect("Tesla V100-SXM2-16GB", 16_900_000_000).memory_bytes == 16_900_000_000


def test_an_unknown_device_or_precision_is_refused_with_what_there_is():
    with pytest.raises(UsageError, match="h100"):
        find_device("h101")
    with pytest.raises(UsageError, match="fp16"):
        find_device("v100").peak("bf16")


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_the_table_is_plausible(device):
    rising = [device.peak_flops[p] for p in ("fp32", "tf32", "fp16", "fp8") if p in device.peak_flops]
    assert rising == sorted(rising)
    assert device.peak("fp32") > 1e13 and device.memory_bytes > 2**34 and 5e11 < device.bandwidth_bytes_per_s < 1e13
    assert device.usd_per_hour > 0 and device.source and "assumed" in device.price_source


def test_the_processor_has_the_peak_that_was_measured():
    device = cpu({"fp32": 1.3e11})
    assert device.peak("fp32") == 1.3e11
    assert device.memory_bytes == machine.total_memory_bytes() > 2**28
    assert device.usd_per_hour == pytest.approx(machine.CPU_USD_PER_CORE_HOUR * usable_cores())


PROBE = """
from groundup.account import peak_process_memory_bytes, process_memory_bytes, reset_peak_process_memory
before = process_memory_bytes()
block = bytearray(b"x") * (64 << 20)
during = process_memory_bytes()
del block
peak = peak_process_memory_bytes()
reset = reset_peak_process_memory()
print(before, during, peak, peak_process_memory_bytes() if reset else before)
"""


def test_memory_of_this_process_follows_what_it_holds():
    shown = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout
    before, during, peak, after_reset = map(int, shown.split())
    assert during - before > 60 << 20
    assert peak >= during - (1 << 20)
    assert after_reset < peak - (60 << 20)


def test_the_room_needs_no_torch():
    code = "import sys, groundup.account; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
