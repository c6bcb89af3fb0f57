"""The compiled passes against torch's operations, and what happens where they can't be compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextvec import ops
from nextvec.models.amn import AttentionMixture
from nextvec.models.registry import create_model
from nextvec.ops import native
from nextvec.recipe import make_recipe

FORMATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _compiled() -> None:
    made = native._library()
    if isinstance(made, str):
        pytest.skip(f"no compiled code here: {made}")


def both(function, *arguments, **options):
    """What the compiled pass gives, and what torch's operations give; some passes overwrite what they are given."""
    found = []
    for allowed in (True, False):
        ops.allow(allowed)
        try:
            own = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
            found.append(function(*own, **options))
        finally:
            ops.allow(True)
    return found


def same(found, expected, **tolerance) -> None:
    one, other = ((parts,) if isinstance(parts, Tensor) else parts for parts in (found, expected))
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.shape == right.shape and left.dtype == right.dtype
        torch.testing.assert_close(left, right, **tolerance)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("sizes", [(7, 4, 5, 768), (3, 1, 1, 5), (2, 3, 32, 130), (4, 5, 0, 16), (1, 1, 16, 64)])
@pytest.mark.parametrize("of_vectors", FORMATS)
@pytest.mark.parametrize("of_heads", [torch.float32, torch.bfloat16])
def test_small_products(sizes, of_vectors, of_heads) -> None:
    windows, heads, steps, size = sizes
    # As `gather` gives them: a part of a larger block, in the store's format.
    vectors = random(windows, steps + 1, size, dtype=of_vectors)[:, :-1]
    given = random(heads, windows, size, seed=1, dtype=of_heads).transpose(0, 1)
    weights = random(windows, heads, steps, seed=2)
    same(*both(ops.score, given, vectors), rtol=1e-4, atol=1e-4)
    same(*both(ops.score, given, vectors, more_BD=random(windows, size, seed=4)), rtol=1e-4, atol=1e-4)
    same(*both(ops.combine, weights, vectors), rtol=1e-4, atol=1e-4)
    for heads_first in (False, True):
        found, expected = both(ops.combine, weights, vectors, dtype=torch.bfloat16, heads_first=heads_first)
        same(found, expected, rtol=1e-2, atol=1e-2)
        assert not heads_first or found[0].transpose(0, 1).is_contiguous()
    if steps:
        present = random(windows, steps, seed=3) > 0
        same(*both(ops.score, given, vectors, present), rtol=1e-4, atol=1e-4)
        same(*both(ops.combine, weights, vectors, present), rtol=1e-4, atol=1e-4)


def test_what_is_too_large_for_a_stack_is_left_to_torch() -> None:
    vectors, weights = random(1, 3000, 256), random(1, 2, 3000, seed=1)
    assert not ops.read(vectors)
    same(*both(ops.combine, weights, vectors), rtol=1e-4, atol=1e-3)
    same(*both(ops.score, random(1, 3000, 256), random(1, 4, 256)), rtol=1e-4, atol=1e-3)
    with torch.inference_mode():
        assert AttentionMixture(64).eval()(random(1, 4000, 64)).isfinite().all()


def test_a_mask_may_lie_as_it_likes() -> None:
    weights, vectors = random(3, 2, 4), random(3, 4, 16, seed=1)
    mask = (random(4, 3, seed=2) > 0).T
    same(ops.combine(weights, vectors, mask), ops.combine(weights, vectors, mask.contiguous()))
    with pytest.raises(AssertionError):
        ops.combine(weights, vectors, mask[:, :3])
    with pytest.raises(AssertionError):
        ops.score(random(3, 2, 8), vectors)


def test_absent_vectors_are_never_read() -> None:
    vectors, present = random(2, 3, 64), torch.tensor([[False, True, True], [False, False, True]])
    poisoned = vectors.masked_fill(~present[:, :, None], torch.nan)
    weights, heads = random(2, 4, 3, seed=1), random(2, 4, 64, seed=2)
    same(ops.combine(weights, poisoned, present), ops.combine(weights, vectors, present))
    same(ops.score(heads, poisoned, present), ops.score(heads, vectors, present))


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    numbers = torch.tensor([1.0, 1.00390625, 1.01171875, -3.3e38, 1e-40, torch.inf, -torch.inf, torch.nan] * 8)
    found, _ = ops.combine(torch.ones(1, 1, 1), numbers[None, None], dtype=torch.bfloat16)
    torch.testing.assert_close(found[0, 0], numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FORMATS)
def test_lengths_and_units(dtype) -> None:
    vectors = random(6, 4, 70, dtype=dtype)
    vectors[2] = 0
    same(*both(ops.normalise, vectors[:, -1], 1e-6), rtol=1e-5, atol=1e-6)
    same(*both(ops.lengths, vectors, 1e-6), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(9, 70), (130, 3), (2, 768)])
def test_passes_over_a_batch(sizes) -> None:
    batch, size = sizes
    left, right, shift, slope = random(*sizes), random(*sizes, seed=1), random(size, seed=2), random(size, seed=3)
    same(*both(ops.compare, left, right), rtol=1e-4, atol=1e-4)
    same(*both(ops.moments, left), rtol=1e-4, atol=1e-5)
    same(*both(ops.measure_affine, left, shift, slope), rtol=1e-4, atol=1e-3)
    pull, push, length = random(batch, seed=4), torch.tensor(0.3), random(batch, 1, seed=5).abs() + 1
    for block in (random(*sizes, seed=6), None):
        rest = (shift, slope, pull, push, left, right, length)
        same(*both(ops.mix, block, torch.tensor(0.7), *rest), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [2, 65, 512])
@pytest.mark.parametrize("tau", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_info_nce_both_ways(batch, tau, grouped) -> None:
    units = torch.nn.functional.normalize(random(batch, 32))
    others = torch.nn.functional.normalize(units + 0.3 * random(batch, 32, seed=1))
    groups = (torch.arange(batch) // 3).int() if grouped else None
    largest = 2 / (tau * batch)
    same(*both(ops.pair_both_ways, units @ others.T, tau, groups), rtol=1e-4, atol=3e-6 * largest)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(bad) -> None:
    products = random(70, 70)
    products[3, 4] = bad
    loss, gradient = ops.pair_both_ways(products, 0.1, None)
    assert not bool(loss.isfinite()) and not bool(gradient.isfinite().all())
    vectors = random(5, 70)
    vectors[1, 1] = bad
    units, length = ops.normalise(vectors, 1e-6)
    assert not bool(units[1].isfinite().all()) and not bool(length[1].isfinite())
    assert bool(units[0].isfinite().all())
    assert not bool(ops.compare(vectors, random(5, 70, seed=1))[0][1].isfinite())


def test_the_number_of_threads_changes_no_bit() -> None:
    units, others = random(200, 768), random(200, 768, seed=1)
    vectors, weights = random(200, 5, 768, dtype=torch.float16), random(200, 4, 5)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([
                *ops.combine(weights, vectors), ops.score(units[:, None], vectors), *ops.moments(units),
                *ops.compare(units, others), *ops.pair_both_ways(units[:, :200] / 50, 0.1, None),
            ])  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(left, right) for left, right in zip(found[0], other, strict=True))


def test_float64_is_left_to_torch() -> None:
    vectors, weights = random(2, 3, 8).double(), random(2, 1, 3).double()
    assert not ops.read(vectors)
    assert ops.combine(weights, vectors)[0].dtype == torch.float64


def test_a_product_multiplies_in_bfloat16_where_told_to() -> None:
    left, right = random(64, 64), random(64, 64, seed=1)
    exact, quick = (ops.multiply(left, right, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert quick.dtype == torch.float32 and torch.equal(exact, left @ right)
    torch.testing.assert_close(quick, exact, rtol=0.05, atol=0.2)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16", "the setting is as it was"


def test_the_norm_of_many_tensors() -> None:
    tensors = [random(3), random(40, 1000, seed=1), random(2**14, seed=2), random(1, 1, seed=3), torch.zeros(0)]
    found, expected = both(lambda: ops.norm(tensors))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    tensors[1][3, 4] = torch.nan
    assert bool(ops.norm(tensors).isnan())


@pytest.mark.parametrize("kind", ["amn", "lstm", "gru", "transformer"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_network_reads_the_stores_format(kind, precision) -> None:
    """Prediction, query and their gradients, from float16 vectors with and without a mask."""
    torch.manual_seed(0)
    model = create_model(make_recipe({"name": "x", "model": {"kind": kind}}).model, 32).eval()
    context = torch.nn.functional.normalize(random(4, 5, 32), dim=2).half()
    mask = torch.arange(5) >= torch.tensor([0, 1, 2, 4])[:, None]
    for present in (None, mask):
        found, expected = both(lambda present=present: outputs_and_gradient(model, context, present, precision))
        tolerance = 1e-4 if precision == torch.float32 else 0.03
        same(found, expected, rtol=tolerance, atol=tolerance)


def outputs_and_gradient(model, context, present, precision) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        prediction, query = model(context, present), model.raw_query(context, present)
    (prediction.float().square().sum() + query.float().square().sum()).backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) > 5
    return [prediction.detach().float(), query.detach().float(), *found]


@pytest.mark.parametrize(("size", "steps"), [(768, 5), (130, 32), (8, 70), (70, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_prediction_is_that_of_a_batch(size, steps, dtype) -> None:
    torch.manual_seed(0)
    model = AttentionMixture(size).eval()
    for parameter in model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    context = torch.nn.functional.normalize(random(3, steps, size), dim=2).to(dtype)
    present = torch.ones(3, steps, dtype=torch.bool)
    present[1, : steps // 2] = False
    for mask in (None, present):
        poisoned = context if mask is None else context.masked_fill(~mask[:, :, None], torch.nan)
        with torch.inference_mode():
            many = model(context, mask)
            ones = [model(poisoned[row : row + 1], None if mask is None else mask[row : row + 1]) for row in range(3)]
        torch.testing.assert_close(torch.cat(ones), many, rtol=1e-4, atol=1e-5)
    assert model(context[:1]).requires_grad, "with a gradient it goes the other way"


# Where it can't be compiled


def compiled_with(folder: Path, **environment: str) -> str:
    """What a fresh process says of the passes, its cache being `folder`, and that they work."""
    code = (
        "import torch; from nextvec import ops; print(ops.how(torch.device('cpu'))); "
        "assert ops.combine(torch.ones(1, 1, 2), torch.ones(1, 2, 4))[0].sum() == 8"
    )
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    ended = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_it_is_compiled_once_and_kept(tmp_path) -> None:
    assert compiled_with(tmp_path) == "compiled code"
    (kept,) = (tmp_path / "nextvec").iterdir()
    written = kept.stat().st_mtime_ns
    assert compiled_with(tmp_path) == "compiled code" and kept.stat().st_mtime_ns == written


def test_without_a_compiler_torch_does_it_and_says_so(tmp_path) -> None:
    assert compiled_with(tmp_path, CC="no-such-compiler") == "torch (no C compiler: no-such-compiler)"


def test_a_compiler_that_fails_is_named(tmp_path) -> None:
    assert compiled_with(tmp_path, CC="false") == "torch (false failed: exit 1)"


def test_a_damaged_file_is_made_anew(tmp_path) -> None:
    compiled_with(tmp_path)
    (kept,) = (tmp_path / "nextvec").iterdir()
    kept.write_bytes(b"not a library")
    assert compiled_with(tmp_path) == "compiled code" and kept.stat().st_size > 1000


def test_a_compiler_may_be_several_words(tmp_path) -> None:
    assert compiled_with(tmp_path, CC="env cc") == "compiled code"


def test_a_cache_that_is_a_file_is_gone_around(tmp_path) -> None:
    (tmp_path / "nextvec").write_text("")
    (tmp_path / "tmp").mkdir()
    assert compiled_with(tmp_path, TMPDIR=str(tmp_path / "tmp")) == "compiled code"
    assert not list((tmp_path / "tmp").iterdir()), "nothing is left behind"


def test_away_from_linux_torch_does_it(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(native.NotCompiledError, match="only compiled on Linux"):
        native.load()
