"""Fused operations against their formulas, natively and in PyTorch; compiling, caching and falling back.

Tests of the C code are skipped without a C compiler, and fail if NEXTVEC_REQUIRE_NATIVE_OPS=1 is set, as CI does.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextvec import ops
from nextvec.models.amn import AttentionMixture
from nextvec.models.registry import create_model
from nextvec.ops import native
from nextvec.recipe import ModelRecipe

FORMATS = (torch.float32, torch.float16, torch.bfloat16)
CPU = torch.device("cpu")


def require_native() -> None:
    """Skip the test without native ops, or fail it where they are required."""
    if ops.backend(CPU) != "native":
        message = f"no native ops: {ops.backend(CPU)}"
        if os.environ.get("NEXTVEC_REQUIRE_NATIVE_OPS") == "1":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def native_only() -> None:
    require_native()


@pytest.fixture(params=["native", "torch"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with the C code, then with PyTorch's operations."""
    if request.param == "native":
        require_native()
    with ops.native_ops(request.param == "native"):
        yield request.param


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(actual: Tensor, expected_float64: Tensor, tolerance: float, dtype: torch.dtype = torch.float32) -> None:
    assert actual.dtype == dtype and actual.shape == expected_float64.shape
    torch.testing.assert_close(actual.double(), expected_float64, rtol=tolerance, atol=tolerance)


# The switch


def test_native_ops_are_used_where_they_are_required(native_only: None) -> None:
    assert ops.backend(CPU) == "native"
    assert ops.reads_in_place(torch.ones(2, 3, 4, dtype=torch.float16))


def test_native_ops_can_be_switched_off_for_a_block() -> None:
    before = ops.backend(CPU)
    with pytest.raises(ZeroDivisionError), ops.native_ops(False):
        assert ops.backend(CPU) == "torch"
        assert not ops.reads_in_place(torch.ones(2, 3, 4))
        with ops.native_ops(True):
            assert ops.backend(CPU) == before
        assert ops.backend(CPU) == "torch"
        raise ZeroDivisionError
    assert ops.backend(CPU) == before


def test_other_devices_use_torch() -> None:
    assert ops.backend(torch.device("meta")) == "torch"


# Products of a window


@pytest.mark.parametrize("sizes", [(7, 4, 5, 768), (3, 1, 1, 5), (2, 3, 32, 130), (4, 5, 0, 16), (1, 1, 16, 64)])
@pytest.mark.parametrize("vector_format", FORMATS)
@pytest.mark.parametrize("head_format", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_window_products_equal_their_formulas(
    backend: str, sizes: tuple[int, ...], vector_format: torch.dtype, head_format: torch.dtype, masked: bool
) -> None:
    windows, heads, steps, dimensions = sizes
    # A slice of a larger block in the store's format, as `gather` returns it; heads as a product by heads leaves them.
    vectors = random(windows, steps + 1, dimensions, dtype=vector_format)[:, :-1]
    head = random(heads, windows, dimensions, seed=1, dtype=head_format).transpose(0, 1)
    weights, extra = random(windows, heads, steps, seed=2), random(windows, dimensions, seed=4)
    present = random(windows, steps, seed=3) > 0 if masked else None

    exact = vectors.double()
    if present is not None:
        exact = exact * present[:, :, None]
    scores = torch.einsum("bhd,bsd->bhs", head.double(), exact)
    assert_near(ops.score(head, vectors, present), scores, 1e-4)
    scores[:, 0] += torch.einsum("bd,bsd->bs", extra.double(), exact)
    assert_near(ops.score(head, vectors, present, extra_BD=extra), scores, 1e-4)

    sums = torch.einsum("bhs,bsd->bhd", weights.double(), exact)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        for heads_first in (False, True):
            combined, first = ops.combine(weights, vectors, present, dtype=dtype, heads_first=heads_first)
            assert_near(combined, sums, tolerance, dtype)
            # PyTorch multiplies in the vectors' format, C always in float32.
            assert_near(first, sums[:, 0], tolerance)
            assert backend == "torch" or not heads_first or combined.transpose(0, 1).is_contiguous()


def test_windows_that_do_not_fit_on_a_stack_use_torch() -> None:
    vectors, weights = random(1, 3000, 256), random(1, 2, 3000, seed=1)
    assert not ops.reads_in_place(vectors)
    assert_near(ops.combine(weights, vectors)[0], weights.double() @ vectors.double(), 1e-3)
    heads, few = random(1, 3000, 256), random(1, 4, 256)
    assert_near(ops.score(heads, few), heads.double() @ few.double().mT, 1e-3)
    with torch.inference_mode():
        assert AttentionMixture(64).eval()(random(1, 4000, 64)).isfinite().all()


def test_a_mask_may_have_any_strides(backend: str) -> None:
    weights, vectors = random(3, 2, 4), random(3, 4, 16, seed=1)
    mask = (random(4, 3, seed=2) > 0).T
    assert torch.equal(ops.combine(weights, vectors, mask)[0], ops.combine(weights, vectors, mask.contiguous())[0])


def test_wrong_shapes_are_refused(backend: str) -> None:
    weights, vectors, mask = random(3, 2, 4), random(3, 4, 16, seed=1), torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(AssertionError):
        ops.combine(weights, vectors, mask[:, :3])
    with pytest.raises(AssertionError):
        ops.score(random(3, 2, 8), vectors)


def test_absent_vectors_are_never_read(backend: str) -> None:
    vectors, present = random(2, 3, 64), torch.tensor([[False, True, True], [False, False, True]])
    poisoned = vectors.masked_fill(~present[:, :, None], torch.nan)
    weights, heads = random(2, 4, 3, seed=1), random(2, 4, 64, seed=2)
    assert torch.equal(ops.combine(weights, poisoned, present)[0], ops.combine(weights, vectors, present)[0])
    assert torch.equal(ops.score(heads, poisoned, present), ops.score(heads, vectors, present))


def test_bfloat16_is_rounded_as_torch_rounds(backend: str) -> None:
    numbers = torch.tensor([1.0, 1.00390625, 1.01171875, -3.3e38, 1e-40, torch.inf, -torch.inf, torch.nan] * 8)
    combined, _ = ops.combine(torch.ones(1, 1, 1), numbers[None, None], dtype=torch.bfloat16)
    torch.testing.assert_close(combined[0, 0], numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_float64_uses_torch() -> None:
    vectors, weights = random(2, 3, 8).double(), random(2, 1, 3).double()
    assert not ops.reads_in_place(vectors)
    assert ops.combine(weights, vectors)[0].dtype == torch.float64


# Operations over a batch


@pytest.mark.parametrize("dtype", FORMATS)
def test_normalize_and_lengths_equal_their_formulas(backend: str, dtype: torch.dtype) -> None:
    vectors = random(6, 4, 70, dtype=dtype)
    vectors[2] = 0  # without a direction: divided by the smallest length
    expected = vectors.double().norm(dim=2).clamp(min=ops.MIN_LENGTH)
    assert_near(ops.lengths(vectors), expected, 1e-5)
    units, length = ops.normalize(vectors[:, -1])
    assert_near(length, expected[:, -1:], 1e-5)
    assert_near(units, vectors[:, -1].double() / expected[:, -1:], 1e-5)


@pytest.mark.parametrize("sizes", [(9, 70), (130, 3), (2, 768)])
def test_batch_operations_equal_their_formulas(backend: str, sizes: tuple[int, int]) -> None:
    batch, dimensions = sizes
    left, right, shift, slope = (random(*sizes), random(*sizes, seed=1), random(dimensions), random(dimensions, seed=3))
    x, y = left.double(), right.double()
    for actual, expected in zip(
        ops.compare_rows(left, right), ((x * y).sum(1), (x - y).square().sum(1), x.square().sum(1)), strict=True
    ):
        assert_near(actual, expected, 1e-4)
    for actual, expected in zip(ops.moments(left), (x.mean(0), x.var(0, correction=0)), strict=True):
        assert_near(actual, expected, 1e-4)
    affine = shift.double() + slope.double() * x
    for actual, expected in zip(
        ops.affine_products(left, shift, slope), ((x * affine).sum(1), affine.square().sum(1)), strict=True
    ):
        assert_near(actual, expected, 1e-3)

    units, length = random(batch, seed=4), random(batch, 1, seed=5).abs() + 1
    by = ops.MixCoefficients(
        block=torch.tensor(0.7), shift_D=shift, slope_D=slope, units_B=units, targets=torch.tensor(0.3)
    )
    for block in (random(*sizes, seed=6), None):
        start = 0.0 if block is None else 0.7 * block.double()
        expected = (start + shift.double() + (slope.double() + units.double()[:, None]) * x - 0.3 * y) / length.double()
        assert_near(ops.mix(block, left, right, length, by), expected, 1e-4)


@pytest.mark.parametrize("batch", [2, 65, 512])
@pytest.mark.parametrize("tau", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_symmetric_info_nce_and_its_gradient_equal_autograds(
    backend: str, batch: int, tau: float, grouped: bool
) -> None:
    units = F.normalize(random(batch, 32))
    others = F.normalize(units + 0.3 * random(batch, 32, seed=1))
    groups = (torch.arange(batch) // 3).int() if grouped else None
    products = (units @ others.T).double().requires_grad_()
    logits = products / tau
    if groups is not None:
        same_group = (groups[:, None] == groups).fill_diagonal_(False)
        logits = logits.masked_fill(same_group, -torch.inf)
    pairs = torch.arange(batch)
    expected = F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)
    expected.backward()
    loss, gradient = ops.symmetric_info_nce(units @ others.T, tau, groups)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-6)
    assert products.grad is not None
    torch.testing.assert_close(gradient.double(), products.grad, rtol=1e-4, atol=1e-5 / (tau * batch))


def test_a_stack_of_blocks_gives_their_mean(backend: str) -> None:
    products, groups = random(3, 40, 40), torch.arange(120).div(3, rounding_mode="floor").int().view(3, 40)
    singles = [ops.symmetric_info_nce(products[block].clone(), 0.1, groups[block]) for block in range(3)]
    loss, gradient = ops.symmetric_info_nce(products.clone(), 0.1, groups)
    assert float(loss) == pytest.approx(sum(float(single) for single, _ in singles) / 3, rel=1e-6)
    torch.testing.assert_close(gradient, torch.stack([single for _, single in singles]) / 3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_values_stay_non_finite(backend: str, bad: float) -> None:
    products = random(70, 70)
    products[3, 4] = bad
    loss, gradient = ops.symmetric_info_nce(products, 0.1, None)
    assert not bool(loss.isfinite()) and not bool(gradient.isfinite().all())
    vectors = random(5, 70)
    vectors[1, 1] = bad
    units, length = ops.normalize(vectors)
    assert not bool(units[1].isfinite().all()) and not bool(length[1].isfinite())
    assert bool(units[0].isfinite().all())
    assert not bool(ops.compare_rows(vectors, random(5, 70, seed=1))[0][1].isfinite())


def test_the_number_of_threads_changes_no_bit(native_only: None) -> None:
    units, others = random(200, 768), random(200, 768, seed=1)
    vectors, weights = random(200, 5, 768, dtype=torch.float16), random(200, 4, 5)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            window = (*ops.combine(weights, vectors), ops.score(units[:, None], vectors))
            batch = (*ops.moments(units), *ops.compare_rows(units, others))
            results.append((*window, *batch, *ops.symmetric_info_nce(units[:, :200] / 50, 0.1, None)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(left, right) for left, right in zip(results[0], result, strict=True))


def test_multiply_uses_bfloat16_on_request_only() -> None:
    left, right = random(64, 64), random(64, 64, seed=1)
    exact, fast = (ops.multiply(left, right, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert fast.dtype == torch.float32 and torch.equal(exact, left @ right)
    torch.testing.assert_close(fast, exact, rtol=0.05, atol=0.2)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16", "the setting is restored"


def test_norm_is_that_of_all_tensors_as_one_vector(backend: str) -> None:
    tensors = [random(3), random(40, 1000, seed=1), random(2**14, seed=2), random(1, 1, seed=3), torch.zeros(0)]
    expected = torch.cat([tensor.flatten() for tensor in tensors]).double().norm()
    torch.testing.assert_close(ops.norm(tensors).double(), expected, rtol=1e-6, atol=0)
    tensors[1][3, 4] = torch.nan
    assert bool(ops.norm(tensors).isnan())


# Networks


@pytest.mark.parametrize("kind", ["amn", "lstm", "gru", "transformer"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_networks_and_their_gradients_are_equal_with_both_backends(
    native_only: None, kind: str, precision: torch.dtype, masked: bool
) -> None:
    torch.manual_seed(0)
    model = create_model(ModelRecipe(kind=kind), 32).eval()
    context = F.normalize(random(4, 5, 32), dim=2).half()
    mask = torch.arange(5) >= torch.tensor([0, 1, 2, 4])[:, None] if masked else None
    with ops.native_ops(True):
        actual = outputs_and_gradients(model, context, mask, precision)
    with ops.native_ops(False):
        expected = outputs_and_gradients(model, context, mask, precision)
    tolerance = 1e-4 if precision == torch.float32 else 0.03
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def outputs_and_gradients(
    model: torch.nn.Module, context: Tensor, mask: Tensor | None, precision: torch.dtype
) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        prediction, query = model(context, mask), model.raw_query(context, mask)
    (prediction.float().square().sum() + query.float().square().sum()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) > 5
    return [prediction.detach().float(), query.detach().float(), *gradients]


# Compiling and caching


def backend_of_new_process(cache: Path, **environment: str) -> str:
    """The backend that a new process with this cache folder reports, after an operation that works."""
    code = (
        "import torch; from nextvec import ops; print(ops.backend(torch.device('cpu'))); "
        "assert ops.combine(torch.ones(1, 1, 2), torch.ones(1, 2, 4))[0].sum() == 8"
    )
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    process = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_the_library_is_compiled_once_and_cached_and_again_if_damaged(native_only: None, tmp_path: Path) -> None:
    assert backend_of_new_process(tmp_path) == "native"
    (library,) = (tmp_path / "nextvec").iterdir()
    written = library.stat().st_mtime_ns
    assert backend_of_new_process(tmp_path) == "native" and library.stat().st_mtime_ns == written

    library.write_bytes(b"not a library")
    assert backend_of_new_process(tmp_path) == "native" and library.stat().st_size > 1000


def test_a_compiler_may_be_a_command_with_arguments(native_only: None, tmp_path: Path) -> None:
    assert backend_of_new_process(tmp_path, CC="env cc") == "native"


def test_without_a_cache_folder_the_library_is_compiled_for_the_process(native_only: None, tmp_path: Path) -> None:
    (tmp_path / "nextvec").write_text("")
    (tmp_path / "tmp").mkdir()
    assert backend_of_new_process(tmp_path, TMPDIR=str(tmp_path / "tmp")) == "native"
    assert not list((tmp_path / "tmp").iterdir()), "temporary files are removed"


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C code is only compiled on Linux")


@linux_only
def test_without_a_compiler_torch_is_used_and_the_reason_reported(tmp_path: Path) -> None:
    assert backend_of_new_process(tmp_path, CC="no-such-compiler") == "torch (no C compiler: no-such-compiler)"


@linux_only
def test_a_compiler_that_fails_is_reported(tmp_path: Path) -> None:
    assert backend_of_new_process(tmp_path, CC="false") == "torch (false failed: exit 1)"


def test_other_systems_than_linux_use_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(native.NativeOpsUnavailableError, match="only compiled on Linux"):
        native.load_library()
