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
        ("Tesla V100-PCIE-32GB", "v100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
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
    rising = [device.peak_flops[p] for p in ("fp32", "tf32", "fp16", "fp8", "fp4") if p in device.peak_flops]
    assert rising == sorted(rising)
    assert device.peak_flops.get("bf16", device.peak(device.half_precision)) == device.peak(device.half_precision)
    assert 2e12 < device.peak(device.half_precision) < 1e16
    assert device.memory_bytes >= 2**34 and 5e10 < device.bandwidth_bytes_per_s < 1e13
    assert 0 < device.usd_per_hour < 10 and device.source
    assert "assumed" in device.price_source or "list price" in device.price_source
    assert device.power_w is None or 100 < device.power_w <= 1000
    # links to neighbours are slower than memory; whoever has them names them
    assert (device.interconnect_bytes_per_s is None) == (device.interconnect == "")
    assert device.interconnect_bytes_per_s is None or device.interconnect_bytes_per_s < device.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    "key, precision, flops_per_byte",
    [("a100", "bf16", 153), ("a100-40gb", "bf16", 201), ("h100", "bf16", 295), ("tpu-v5e", "bf16", 240), ("v100", "fp16", 139)],
)
def test_ridge_points_are_those_that_are_published(key, precision, flops_per_byte):
    assert find_device(key).ridge(precision) == pytest.approx(flops_per_byte, rel=0.01)


@pytest.mark.parametrize("key", [key for key, device in DEVICES.items() if "fp8" in device.peak_flops])
def test_each_halving_of_a_number_doubles_the_peak_of_tensor_cores(key):
    """A sparse figure, or one with fp16 accumulation, in the place of a dense one would break the chain."""
    peaks = find_device(key).peak_flops
    for wide, narrow in (("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "fp4")):
        if {wide, narrow} <= peaks.keys():
            expected = 4 if narrow == "fp4" and key.startswith("rtx") else 2  # GeForce: fp8 with fp32 accumulation runs at half rate
            assert peaks[narrow] == pytest.approx(expected * peaks[wide], rel=0.01)


def test_generations_grow_as_published():
    flops = {key: device.peak(device.half_precision) for key, device in DEVICES.items()}
    assert flops["a100"] == pytest.approx(2.5 * flops["v100"], rel=0.01)  # "2.5x V100", A100 whitepaper
    assert flops["mi300x"] == pytest.approx(1.3 * flops["h100"], rel=0.02)  # AMD's "1.3x H100"
    assert flops["m1-ultra"] == 2 * flops["m1-max"]
    assert DEVICES["h200"].bandwidth_bytes_per_s == pytest.approx(1.43 * DEVICES["h100"].bandwidth_bytes_per_s, rel=0.01)
    assert DEVICES["h100"].interconnect_bytes_per_s == 1.5 * DEVICES["a100"].interconnect_bytes_per_s == 3 * 150e9


def test_a_processor_without_bandwidth_has_no_ridge():
    with pytest.raises(UsageError, match="bandwidth"):
        cpu({"fp32": 1e11}).ridge("fp32")


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
