"""Devices, formats, threads and seeds are what was asked for, or the reason is said."""

import subprocess
import sys

import pytest
import torch

from nextvec.core import device as device_module
from nextvec.core import process
from nextvec.core.device import autocast, resolve_device, resolve_precision, seed_everything, set_threads
from nextvec.errors import InputError


@pytest.fixture
def machine(monkeypatch):
    """A maker of machines with and without accelerators."""

    def make(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "device"),
    [
        ("auto", 0, False, "cpu"), ("auto", 1, False, "cuda"), ("auto", 1, True, "cuda"), ("auto", 0, True, "mps"),
        ("cpu", 1, True, "cpu"), ("cuda", 1, False, "cuda"), ("cuda:1", 2, False, "cuda:1"), ("mps", 0, True, "mps"),
    ],
)  # fmt: skip
def test_devices_that_are_there(machine, name, cuda, mps, device):
    machine(cuda=cuda, mps=mps)
    assert resolve_device(name) == (torch.device(device), None)


@pytest.mark.parametrize(("name", "cuda"), [("cuda", 0), ("mps", 0), ("cuda:0", 0), ("cuda:3", 2)])
def test_a_device_that_is_not_there_falls_back_with_a_notice(machine, name, cuda):
    machine(cuda=cuda)
    device, notice = resolve_device(name)
    assert device == torch.device("cpu") and notice == f"device '{name}' is not available here; using cpu"


@pytest.mark.parametrize(
    ("name", "words"), [("xyz", "Known: auto, cpu, cuda, mps"), ("cdua", "Did you mean 'cuda'?"), ("", "Known:")]
)
def test_an_unknown_device_is_one_line(name, words):
    with pytest.raises(InputError, match=f"^device '{name}' is unknown") as raised:
        resolve_device(name)
    assert words in str(raised.value)


@pytest.mark.parametrize("name", ["cpu:x", "cuda:", "cuda:one", "cuda:-1", "auto:1"])
def test_a_device_number_that_is_none_is_one_line(machine, name):
    machine(cuda=2)
    with pytest.raises(InputError, match=f"^device '{name}'"):
        resolve_device(name)


def test_precision():
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == torch.float32 and resolve_precision("bf16", cpu) == torch.bfloat16
    assert resolve_precision("auto", torch.device("mps")) == torch.float32
    with pytest.raises(AssertionError):
        resolve_precision("fp16", cpu)


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_asks_the_processor(monkeypatch, fast, dtype):
    monkeypatch.setattr(device_module, "_has_fast_bfloat16", lambda device: fast)
    assert resolve_precision("auto", torch.device("cpu")) == dtype


def test_autocast_runs_products_in_the_format_and_float32_is_left_alone():
    cpu, one = torch.device("cpu"), torch.ones(2, 2)
    with autocast(cpu, torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16
    with autocast(cpu, torch.float32):
        assert (one @ one).dtype == torch.float32


def test_threads():
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == 1 == torch.get_num_threads()
        assert set_threads(None) == 1, "left as they are"
    finally:
        torch.set_num_threads(before)


def test_a_seed_decides_the_numbers():
    drawn = []
    for seed in (7, 7, 8):
        seed_everything(seed)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    seed_everything(2**63 - 1)


@pytest.mark.parametrize(
    ("platform", "before", "after"), [("darwin", None, "TRUE"), ("darwin", "FALSE", "FALSE"), ("linux", None, None)]
)
def test_two_openmp_runtimes_on_macos_do_not_end_the_process(monkeypatch, platform, before, after):
    monkeypatch.setattr(process.sys, "platform", platform)
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK", raising=False)
    if before is not None:
        monkeypatch.setenv("KMP_DUPLICATE_LIB_OK", before)
    process.prepare_process()
    assert process.os.environ.get("KMP_DUPLICATE_LIB_OK") == after
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK", raising=False)


def test_preparing_the_process_does_not_load_torch():
    code = "import sys, nextvec.core.process; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "meant"), [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("CUDA:0", "cuda:0"), ("metal", "mps")]
)
def test_other_names_of_a_device_suggest_torchs_name(name, meant):
    with pytest.raises(InputError, match=f"^device '{name}' is unknown. Did you mean '{meant}'\\?$"):
        resolve_device(name)


def test_more_threads_than_cores_are_refused():
    cores = device_module.available_cores()
    with pytest.raises(InputError, match=f"^runtime.threads is {cores + 1}, but this process has {cores} cores"):
        set_threads(cores + 1)
