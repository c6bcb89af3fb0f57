"""Checkpoints of the original trainer load, also with other layer names, and give the same predictions.

The references implement the formulas in plain tensor operations and share no code with the models.
"""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextvec.errors import CheckpointError
from nextvec.models.load_weights import LoadReport, load_weights, original_config
from nextvec.models.published import TABLE_LENGTH, sinusoids
from nextvec.models.registry import MODELS, LatentModel, create_model, model_from_config
from nextvec.recipe import ModelRecipe

State = dict[str, Tensor]
DIMENSIONS, CONTEXT = 32, 5


def fresh(kind: str, dimensions: int = DIMENSIONS, seed: int = 0) -> LatentModel:
    torch.manual_seed(seed)
    return create_model(ModelRecipe(kind=kind, variant="original", zero_start=False), dimensions).eval()


def contexts(dimensions: int = DIMENSIONS, context: int = CONTEXT) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return F.normalize(torch.randn(6, context, dimensions, generator=generator), dim=-1)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return (
        centered / (centered.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def amn_reference(state: State, context_BSD: Tensor) -> Tensor:
    predictions = []
    for context_SD in context_BSD:
        base = sum(context_SD) / len(context_SD)
        query = linear(state, "query_encoder", base)
        scores = torch.stack([linear(state, "context_encoder", vector) @ query for vector in context_SD]) / 16
        weights = scores.exp() / scores.exp().sum()
        weighted = sum(weight * vector for weight, vector in zip(weights, context_SD, strict=True))
        hidden = norm(state, "residual_net.2", gelu(linear(state, "residual_net.0", torch.cat([base, weighted]))))
        hidden = norm(state, "residual_net.5", gelu(linear(state, "residual_net.3", hidden)))
        predictions.append(base + linear(state, "residual_net.6", hidden))
    return torch.stack(predictions)


def gates(state: State, name: str, layer: int, x: Tensor, h: Tensor, count: int) -> tuple[tuple[Tensor, ...], ...]:
    from_x = x @ state[f"{name}.weight_ih_l{layer}"].T + state[f"{name}.bias_ih_l{layer}"]
    from_h = h @ state[f"{name}.weight_hh_l{layer}"].T + state[f"{name}.bias_hh_l{layer}"]
    return from_x.chunk(count, dim=-1), from_h.chunk(count, dim=-1)


def lstm_reference(state: State, context_BSD: Tensor) -> Tensor:
    steps = list(context_BSD.unbind(1))
    for layer in (0, 1):
        h = c = torch.zeros(len(context_BSD), 512)
        for position, x in enumerate(steps):
            (xi, xf, xg, xo), (hi, hf, hg, ho) = gates(state, "lstm", layer, x, h, 4)
            c = torch.sigmoid(xf + hf) * c + torch.sigmoid(xi + hi) * torch.tanh(xg + hg)
            h = torch.sigmoid(xo + ho) * torch.tanh(c)
            steps[position] = h
    return linear(state, "output_proj", steps[-1])


def gru_reference(state: State, context_BSD: Tensor) -> Tensor:
    steps = [linear(state, "input_proj", x) for x in context_BSD.unbind(1)]
    for block in range(4):
        h = torch.zeros(len(context_BSD), 512)
        for position, x in enumerate(steps):
            (xr, xz, xn), (hr, hz, hn) = gates(state, f"blocks.{block}.gru", 0, x, h, 3)
            reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
            h = (1 - update) * torch.tanh(xn + reset * hn) + update * h
            steps[position] = norm(state, f"blocks.{block}.norm", x + h)
    return linear(state, "output_proj", steps[-1])


def attention(state: State, name: str, queries: Tensor, memory: Tensor) -> Tensor:
    """Causal attention with 8 heads of 64; `queries` and `memory` are (S, 512)."""
    weights, biases = state[f"{name}.in_proj_weight"].chunk(3), state[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((queries, memory, memory), weights, biases, strict=True))
    rows = []
    for step in range(len(queries)):
        heads = []
        for head in range(8):
            columns = slice(64 * head, 64 * head + 64)
            probabilities = torch.softmax(k[: step + 1, columns] @ q[step, columns] / 8, dim=0)
            heads.append(probabilities @ v[: step + 1, columns])
        rows.append(torch.cat(heads))
    return linear(state, f"{name}.out_proj", torch.stack(rows))


def transformer_reference(state: State, context_BSD: Tensor) -> Tensor:
    predictions = []
    for context_SD in context_BSD:
        places = torch.arange(len(context_SD))[:, None] / 10000 ** (torch.arange(512) // 2 * 2 / 512)
        positions = torch.where(torch.arange(512) % 2 == 0, places.sin(), places.cos())
        memory = x = linear(state, "input_proj", context_SD) + positions
        for layer in range(4):
            name = f"transformer_decoder.layers.{layer}"
            x = norm(state, f"{name}.norm1", x + attention(state, f"{name}.self_attn", x, x))
            x = norm(state, f"{name}.norm2", x + attention(state, f"{name}.multihead_attn", x, memory))
            x = norm(
                state, f"{name}.norm3", x + linear(state, f"{name}.linear2", linear(state, f"{name}.linear1", x).relu())
            )
        hidden = norm(state, "head.2", gelu(linear(state, "head.0", x[-1])))
        predictions.append(linear(state, "head.3", hidden))
    return torch.stack(predictions)


REFERENCES: dict[str, Callable[[State, Tensor], Tensor]] = {
    "amn": amn_reference,
    "lstm": lstm_reference,
    "gru": gru_reference,
    "transformer": transformer_reference,
}


def renamed(state: State, *changes: tuple[str, str]) -> State:
    """Return the state dict with each name changed by the first pattern that it matches."""
    names = {}
    for name in state:
        names[name] = next((re.sub(old, new, name) for old, new in changes if re.search(old, name)), name)
    assert len(set(names.values())) == len(state)
    return {names[name]: tensor.clone() for name, tensor in state.items()}


def wrapped(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def dropout_layers(state: State) -> State:
    """Rename as if AMN's residual_net had a Dropout after each LayerNorm, and each encoder were a Sequential."""
    return renamed(
        state,
        (r"^(context|query)_encoder\.", r"\1_encoder.0."),
        (r"^residual_net\.3\.", "residual_net.4."),
        (r"^residual_net\.5\.", "residual_net.6."),
        (r"^residual_net\.6\.", "residual_net.8."),
    )


def renamed_submodules(state: State) -> State:
    return renamed(state, (r"\.gru\.", ".rnn."), (r"\.norm\.", ".layer_norm."))


def without_positions(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "pos_encoder.pe"}


def resized_positions(rows: int) -> Callable[[State], State]:
    return lambda state: {**state, "pos_encoder.pe": sinusoids(0, rows)[None]}


DEVIATIONS: list[tuple[str, str, Callable[[State], State]]] = [
    *((kind, "none", lambda state: state) for kind in MODELS),
    *((kind, "data parallel and compiled", wrapped("module._orig_mod.")) for kind in MODELS),
    ("amn", "dropout layers", dropout_layers),
    ("gru", "renamed submodules", renamed_submodules),
    ("transformer", "no position table", without_positions),
    ("transformer", "short position table", resized_positions(7)),
    ("transformer", "long position table", resized_positions(512)),
    ("transformer", "head in a Sequential", lambda state: renamed(state, (r"^head\.", "head.net."))),
]


@pytest.mark.parametrize(("kind", "deviation", "change"), DEVIATIONS, ids=[f"{k}-{d}" for k, d, _ in DEVIATIONS])
def test_original_checkpoints_give_the_predictions_of_their_formulas(
    kind: str, deviation: str, change: Callable[[State], State]
) -> None:
    state = fresh(kind).state_dict()
    checkpoint = {
        "model_type": kind.upper(),
        "model_config": {"input_dim": DIMENSIONS, "dropout": 0.3},
        "model_state_dict": change({name: tensor.clone() for name, tensor in state.items()}),
    }
    model = model_from_config(original_config(checkpoint)).eval()
    report = load_weights(model, checkpoint["model_state_dict"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(contexts()), REFERENCES[kind](state, contexts()), atol=2e-5, rtol=1e-4)
    assert not report.skipped
    assert not report.missing
    assert bool(report.resized) == (deviation in ("short position table", "long position table"))
    assert model.config["dropout"] == 0.3


def test_a_transformer_accepts_a_context_longer_than_its_position_table() -> None:
    model, long = fresh("transformer", 8), contexts(8, TABLE_LENGTH + 3)[:1]
    with torch.no_grad():
        torch.testing.assert_close(model(long), transformer_reference(model.state_dict(), long), atol=2e-5, rtol=1e-4)


def test_shifted_layers_are_matched_by_order_if_shapes_coincide() -> None:
    # At D = 256 the checkpoint's residual_net.6, a LayerNorm, has a bias of the same shape as the model's last layer.
    source, model = fresh("amn", 256), fresh("amn", 256, seed=1)
    load_weights(model, dropout_layers(source.state_dict()), strict=True)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_half_precision_weights_are_converted_to_float32() -> None:
    model, source = fresh("amn"), fresh("amn", seed=1)
    load_weights(model, {name: tensor.half() for name, tensor in source.state_dict().items()}, strict=True)
    for name, tensor in source.state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_warm_start_loads_matching_layers_and_reports_the_others() -> None:
    model, source = fresh("amn", 32), fresh("amn", 48, seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_weights(model, {**source.state_dict(), "extra.table": torch.zeros(3)})
    fitting = [f"residual_net.{n}.{part}" for n in (2, 3, 5) for part in ("weight", "bias")]
    assert report.loaded == fitting
    assert sorted(report.missing) == sorted(set(before) - set(fitting))
    assert sorted(report.skipped) == sorted({*source.state_dict(), "extra.table"} - set(fitting))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name] if name in fitting else before[name])
    summary = report.summary()
    assert summary.startswith("6 of 14 tensors loaded; 8 missing in the checkpoint, unchanged in the model")
    assert "extra.table" in str(report.to_dict())
    assert "\n" not in summary


def test_an_incomplete_layer_is_skipped() -> None:
    model = fresh("amn")
    before = model.state_dict()["query_encoder.bias"].clone()
    report = load_weights(model, {"query_encoder.bias": torch.ones(256)})
    assert report.skipped == ["query_encoder.bias"]
    assert torch.equal(model.state_dict()["query_encoder.bias"], before)


def test_layers_in_a_different_order_are_skipped() -> None:
    state = fresh("amn", seed=1).state_dict()
    moved = renamed(state, (r"^residual_net\.0\.", "residual_net.9."))
    moved = {**{k: v for k, v in moved.items() if "9" not in k}, **{k: v for k, v in moved.items() if "9" in k}}
    swapped = renamed(
        moved, (r"^residual_net\.6\.", "residual_net.7.")
    )  # two layers left, the last one before the first
    report = load_weights(fresh("amn"), swapped)
    assert sorted(report.skipped) == [f"residual_net.{n}.{part}" for n in (7, 9) for part in ("bias", "weight")]


def blocks(count: int) -> State:
    """Return the weights of a GRU with `count` blocks."""
    state = fresh("gru", seed=1).state_dict()
    kept = {
        name: tensor for name, tensor in state.items() if int((re.findall(r"blocks\.(\d)", name) or ["0"])[0]) < count
    }
    if count > 4:
        kept |= {name.replace("blocks.3", "blocks.4"): tensor for name, tensor in state.items() if "blocks.3" in name}
    return kept


def test_strict_loading_rejects_missing_and_unmatched_layers_and_leaves_the_model_unchanged() -> None:
    for count, problem in (
        (2, "it lacks blocks.2.gru.weight_ih_l0"),
        (5, "the model has no blocks.4.gru.weight_ih_l0"),
    ):
        model = fresh("gru")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=problem) as caught:
            load_weights(model, blocks(count), strict=True)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert len(load_weights(model, blocks(count)).loaded) == 4 + 6 * min(count, 4)


def test_nonfinite_weights_and_values_that_are_not_tensors_are_rejected() -> None:
    state = fresh("amn").state_dict()
    state["query_encoder.bias"] = torch.full((256,), torch.nan)
    with pytest.raises(CheckpointError, match=r"'query_encoder\.bias' contains NaN"):
        load_weights(fresh("amn"), state)
    with pytest.raises(CheckpointError, match="'epoch' is not a tensor"):
        load_weights(fresh("amn"), {"epoch": 3})  # type: ignore[dict-item]


def test_a_report_without_problems_is_one_short_clause() -> None:
    assert LoadReport(loaded=["a", "b"]).summary() == "2 of 2 tensors loaded"


@pytest.mark.parametrize("kind", MODELS)
def test_original_config_reads_dimensions_from_the_tensors(kind: str) -> None:
    checkpoint = {"model_type": kind, "model_state_dict": wrapped("module.")(fresh(kind, 24).state_dict())}
    config = original_config(checkpoint)
    assert config == {"kind": kind, "variant": "original", "dimensions": 24, "zero_start": False}
    assert model_from_config(config).dimensions == 24


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": None}, "model_type or model_state_dict is missing"),
        ({"model_state_dict": None}, "model_type or model_state_dict is missing"),
        ({"model_type": "memory_gru"}, "unknown model_type 'memory_gru'"),
        ({"model_type": "lstm"}, "model_type is lstm, but the weights of lstm and output_proj are missing"),
        ({"model_config": {"d_model": 512}}, "d_model of its amn is 512, but only 256 is supported"),
        (
            {"model_state_dict": {"context_encoder.weight": torch.zeros(256, 8)}},
            "the weights of context_encoder and residual_net are missing",
        ),
    ],
)
def test_original_config_names_the_unsupported_value(change: dict[str, object], problem: str) -> None:
    checkpoint = {"model_type": "amn", "model_config": {"d_model": 256}, "model_state_dict": fresh("amn").state_dict()}
    with pytest.raises(CheckpointError, match=problem) as caught:
        original_config(checkpoint | change)
    assert "\n" not in str(caught.value)


def test_original_config_rejects_different_input_and_output_dimensions() -> None:
    state = fresh("gru").state_dict()
    state["input_proj.weight"] = torch.zeros(512, DIMENSIONS + 1)
    with pytest.raises(CheckpointError, match="reads vectors of 33 numbers and predicts 32"):
        original_config({"model_type": "gru", "model_config": {}, "model_state_dict": state})


def test_baselines_load_their_buffers() -> None:
    source = model_from_config({"kind": "ridge", "dimensions": 4, "context": 3, "slots": 3})
    for buffer in source.buffers():
        buffer.uniform_()
    model = model_from_config(source.config)
    report = load_weights(model, source.state_dict(), strict=True)
    assert report.loaded == list(source.state_dict())
    assert torch.equal(model(contexts(4, 3)), source(contexts(4, 3)))
    with pytest.raises(CheckpointError, match="do not fit a 4-D ridge: it lacks weight_KDD"):
        load_weights(model, {}, strict=True)
