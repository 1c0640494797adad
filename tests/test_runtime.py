"""Settings of the process: they change speed and memory, and nothing that is computed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from envs.models.runtime import check_device

PROGRAM = """
import resource, sys
import torch
from envs.models.runtime import tune_runtime

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

x = torch.arange(6.0).reshape(2, 3)
before, expected = resident(), (x @ x.T).tolist()
first = tune_runtime()
assert tune_runtime() == first
assert (x @ x.T).tolist() == expected
assert first.gemm_error <= 2e-6
assert (first.gemm == "amx") == (first.native == "amx")
taken = resident() - before
block = torch.ones(50_000_000)
used = resident() - before - taken
print(taken, used)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_address_space_is_set_aside_and_no_memory_taken() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken, used = map(int, done.stdout.split())
    assert taken < 64 << 20
    assert used < 264 << 20  # 200 MB, and not all that was set aside


@pytest.mark.parametrize("device", ["mps", "meta", "xla:0"])
def test_a_device_that_nothing_here_computes_on_is_refused(device) -> None:
    check_device("cpu")
    with pytest.raises(ValueError, match=rf"device is '{device}'; it must be cpu, cuda or cuda:N"):
        check_device(device)
