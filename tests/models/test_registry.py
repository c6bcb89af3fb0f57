"""One sweep over all registered models and baselines: shapes, masks, configuration, gradients, precision."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nextvec import ops
from nextvec.errors import CheckpointError, RecipeError
from nextvec.models.base import unit
from nextvec.models.baselines import BASELINE_CLASSES, BASELINES, fit_baselines
from nextvec.models.registry import (
    MODELS,
    ORIGINALS,
    LatentModel,
    count_parameters,
    create_model,
    model_from_config,
    tensor_shapes,
)
from nextvec.models.residual import BASE_DECAY
from nextvec.recipe import ModelRecipe

NETWORKS = (*MODELS, *(f"original {kind}" for kind in ORIGINALS))
EVERY = (*NETWORKS, *BASELINES)
CONTEXT = 5


def unit_vectors(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def left_padding(present: Tensor, context: int) -> Tensor:
    return torch.arange(context) >= context - present[:, None]


@functools.cache
def fitted_baselines(dimensions: int) -> dict[str, LatentModel]:
    context_BSD = unit_vectors(300, CONTEXT, dimensions)
    target_BD = unit(context_BSD[:, -1] + context_BSD[:, -2].roll(1, dims=-1))
    groups = torch.arange(300) // 10
    batch = SimpleNamespace(context_BSD=context_BSD, target_BD=target_BD, mask_BS=None, group_B=groups)
    return fit_baselines([batch], target_BD.mean(dim=0), CONTEXT, quiet=True)


@functools.cache
def make(name: str, dimensions: int) -> LatentModel:
    if name in BASELINES:
        return fitted_baselines(dimensions)[name]
    torch.manual_seed(1)
    # A zero start would hide most of a network behind its base.
    return create_model(recipe_of(name, zero_start=False), dimensions).eval()


def recipe_of(name: str, **options: float | bool) -> ModelRecipe:
    original, kind = name.startswith("original "), name.removeprefix("original ")
    return ModelRecipe(kind=kind, variant="original" if original else "residual", **options)


@pytest.mark.parametrize(
    ("kind", "parameters"), [("amn", 1_510_912), ("lstm", 5_120_768), ("gru", 7_095_552), ("transformer", 17_867_520)]
)
def test_published_networks_have_the_runbooks_parameter_counts(kind: str, parameters: int) -> None:
    for options in ({}, {"dropout": 0.3}):
        assert count_parameters(create_model(ModelRecipe(kind=kind, variant="original", **options), 768)) == parameters


def test_default_networks_have_about_the_size_of_the_published_ones() -> None:
    predicting = {kind: create_model(ModelRecipe(kind=kind, query=False), 768) for kind in MODELS}
    assert abs(count_parameters(predicting["amn"]) / 1_510_912 - 1) < 0.01
    for kind, model in predicting.items():
        with_query = create_model(ModelRecipe(kind=kind), 768)
        assert 1_500_000 <= count_parameters(model) < count_parameters(with_query) <= 18_000_000


def test_registry_names_and_dimensions() -> None:
    assert tuple(MODELS) == tuple(ORIGINALS) == ("amn", "lstm", "gru", "transformer")
    assert tuple(BASELINE_CLASSES)[: len(BASELINES)] == BASELINES
    for name in EVERY:
        assert make(name, 16).name == name.removeprefix("original ")
        assert make(name, 16).dimensions == 16


@pytest.mark.parametrize("dimensions", [16, 48])
@pytest.mark.parametrize("name", EVERY)
def test_predicts_unit_vectors_for_any_context_length(name: str, dimensions: int) -> None:
    model = make(name, dimensions)
    for context in range(1, 9):
        context_BSD = unit_vectors(3, context, dimensions, seed=context)
        with torch.no_grad():
            raw_BD, prediction_BD = model(context_BSD), model.predict(context_BSD)
        assert raw_BD.shape == prediction_BD.shape == (3, dimensions)
        assert raw_BD.dtype == prediction_BD.dtype == torch.float32
        assert torch.isfinite(raw_BD).all()
        torch.testing.assert_close(prediction_BD.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(prediction_BD, raw_BD / raw_BD.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("name", EVERY)
def test_a_masked_context_gives_the_prediction_of_the_shorter_one(name: str) -> None:
    model = make(name, 16)
    present = torch.tensor([1, 2, 3, 4, 5, 3])
    context_BSD, mask_BS = unit_vectors(6, CONTEXT, 16), left_padding(present, CONTEXT)
    garbage = torch.where(mask_BS[:, :, None], context_BSD, torch.nan)
    with torch.no_grad():
        masked_BD = model.predict(garbage, mask_BS)
        for row, count in enumerate(present.tolist()):
            alone_BD = model.predict(context_BSD[row : row + 1, -count:])
            torch.testing.assert_close(masked_BD[row : row + 1], alone_BD, atol=1e-5, rtol=0)
        whole_BD, unmasked_BD = (
            model.predict(context_BSD, torch.ones(6, CONTEXT, dtype=torch.bool)),
            model.predict(context_BSD),
        )
    torch.testing.assert_close(whole_BD, unmasked_BD, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_context_gives_a_finite_prediction(name: str) -> None:
    with torch.no_grad():
        assert torch.isfinite(
            make(name, 16)(torch.zeros(2, CONTEXT, 16), torch.zeros(2, CONTEXT, dtype=torch.bool))
        ).all()


@pytest.mark.parametrize("name", EVERY)
def test_windows_of_a_batch_do_not_affect_each_other(name: str) -> None:
    model, context_BSD = make(name, 16), unit_vectors(7, CONTEXT, 16)
    with torch.no_grad():
        together_BD = model.predict(context_BSD)
        for row in range(7):
            torch.testing.assert_close(
                together_BD[row : row + 1], model.predict(context_BSD[row : row + 1]), atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("train-mean", "context-mean")])
def test_order_of_the_context_matters(name: str) -> None:
    # The published AMN ignores the order: its attention and its base are sums over the context.
    model, context_BSD = make(name, 16), unit_vectors(4, CONTEXT, 16)
    with torch.no_grad():
        change = (model.predict(context_BSD) - model.predict(context_BSD.flip(1))).abs().max()
    assert change < 1e-5 if name == "original amn" else change > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_config_and_state_round_trip(name: str) -> None:
    model, context_BSD = make(name, 48), unit_vectors(4, CONTEXT, 48)
    rebuilt = model_from_config(dict(model.config)).eval()
    assert rebuilt.config == model.config
    assert type(rebuilt) is type(model)
    assert all(isinstance(value, str | int | float | bool) for value in model.config.values())
    state, fresh = model.state_dict(), rebuilt.state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {key: tensor.shape for key, tensor in fresh.items()}
    rebuilt.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(rebuilt.predict(context_BSD), model.predict(context_BSD))


@pytest.mark.parametrize("name", EVERY)
def test_evaluation_is_deterministic_and_half_precision_input_is_read(name: str) -> None:
    model, context_BSD = make(name, 16), unit_vectors(4, CONTEXT, 16).half()
    with torch.no_grad():
        first = model.predict(context_BSD)
        assert torch.equal(first, model.predict(context_BSD))
        assert torch.equal(first, model.predict(context_BSD.float()))
    assert first.dtype == torch.float32


@pytest.mark.parametrize("name", EVERY)
def test_runs_under_bfloat16_autocast(name: str) -> None:
    model, context_BSD = make(name, 16), unit_vectors(8, CONTEXT, 16)
    mask_BS = left_padding(torch.tensor([1, 2, 3, 4, 5, 5, 5, 5]), CONTEXT)
    with torch.no_grad():
        exact_BD = model.predict(context_BSD, mask_BS)
        with torch.autocast("cpu", torch.bfloat16):
            half_BD = model.predict(context_BSD, mask_BS)
    assert half_BD.dtype == torch.float32
    assert (exact_BD * half_BD).sum(dim=1).min() > 0.995


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_parameter(name: str, autocast: bool) -> None:
    torch.manual_seed(0)
    model = create_model(recipe_of(name, zero_start=False), 16).train()
    # The query's correction starts at zero: before the first step, no gradient reaches the first of its two factors.
    if model.query_head is not None:
        torch.nn.init.normal_(model.query_head.metric_up.weight)
    # Long vectors, so that attention scores differ and softmax has a gradient.
    context_BSD, mask_BS = (
        3 * unit_vectors(8, CONTEXT, 16),
        left_padding(torch.tensor([1, 2, 3, 4, 5, 5, 5, 5]), CONTEXT),
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        prediction_BD = model(context_BSD, mask_BS)
        query_BD = model.raw_query(context_BSD, mask_BS) if model.has_query else prediction_BD
    loss = (unit(prediction_BD) * unit_vectors(8, 16, seed=3)).sum() + (unit(query_BD) * unit_vectors(8, 16)).sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # Softmax is invariant to a constant added to all scores, so the gradient of the keys' bias is zero.
        assert parameter.grad.abs().max() > 0 or name == "context_encoder.bias", name


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_train_nothing(name: str) -> None:
    assert count_parameters(make(name, 16)) == 0
    assert not make(name, 16).training


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(recipe_of(name, dropout=0.5, zero_start=False), 16)
    plain = create_model(recipe_of(name, dropout=0.0, zero_start=False), 16)
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    context_BSD = unit_vectors(4, CONTEXT, 16)
    with torch.no_grad():
        assert not torch.equal(model.train()(context_BSD), model(context_BSD))
        assert torch.equal(plain.train()(context_BSD), plain(context_BSD))
        torch.testing.assert_close(model.eval()(context_BSD), plain.eval()(context_BSD))


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("amn", 0.1),
        ("lstm", 0.2),
        ("gru", 0.2),
        ("transformer", 0.1),
        ("original amn", 0.0),
        ("original lstm", 0.2),
        ("original gru", 0.0),
        ("original transformer", 0.1),
    ],
)
def test_default_dropout_of_each_architecture(name: str, dropout: float) -> None:
    assert create_model(recipe_of(name), 16).config["dropout"] == dropout


@pytest.mark.parametrize("kind", MODELS)
def test_a_fresh_network_is_the_decayed_mean(kind: str) -> None:
    torch.manual_seed(0)
    fresh = create_model(ModelRecipe(kind=kind), 48).eval()
    context_BSD, mask_BS = unit_vectors(6, CONTEXT, 48), left_padding(torch.tensor([1, 2, 3, 4, 5, 5]), CONTEXT)
    weights_BS = BASE_DECAY ** torch.arange(CONTEXT - 1.0, -1, -1) * mask_BS
    mean_BD = unit((weights_BS[:, :, None] * context_BSD).sum(dim=1))
    with torch.no_grad():
        # The content weights of a fresh network are small, not zero.
        assert (fresh.predict(context_BSD, mask_BS) * mean_BD).sum(dim=1).min() > 0.99


@pytest.mark.parametrize("kind", MODELS)
def test_query_and_prediction_share_no_parameters(kind: str) -> None:
    model = create_model(ModelRecipe(kind=kind), 48).eval()
    context_BSD, mask_BS = unit_vectors(6, CONTEXT, 48), left_padding(torch.tensor([1, 2, 3, 4, 5, 5]), CONTEXT)
    query_ids = {id(parameter) for parameter in model.query_parameters()}
    prediction_ids = {id(parameter) for parameter in model.prediction_parameters()}
    assert query_ids and prediction_ids and not query_ids & prediction_ids
    assert len(query_ids | prediction_ids) == len(list(model.parameters()))
    query_BD = model.query(context_BSD, mask_BS)
    torch.testing.assert_close(query_BD.norm(dim=1), torch.ones(6))
    # A fresh query is close to the newest vector, never reads a masked position, and has no gradient in the network.
    assert (query_BD * context_BSD[:, -1]).sum(dim=1).min() > 0.8
    garbage = torch.where(mask_BS[:, :, None], context_BSD, torch.nan)
    assert torch.equal(model.query(garbage, mask_BS), query_BD)
    query_BD.sum().backward()
    assert all(parameter.grad is None for parameter in model.prediction_parameters())
    without = create_model(ModelRecipe(kind=kind, query=False), 48)
    assert not without.has_query and not without.query_parameters()
    assert not create_model(ModelRecipe(kind=kind, variant="original"), 48).has_query


def test_a_fresh_original_amn_is_the_context_mean() -> None:
    fresh = create_model(ModelRecipe(kind="amn", variant="original"), 48)
    context_BSD, mask_BS = unit_vectors(6, CONTEXT, 48), left_padding(torch.tensor([1, 2, 3, 4, 5, 5]), CONTEXT)
    mean = make("context-mean", 48)
    assert torch.equal(fresh(context_BSD, mask_BS), mean(context_BSD, mask_BS))
    assert torch.equal(fresh(context_BSD), context_BSD.mean(dim=1))
    away = create_model(ModelRecipe(kind="amn", variant="original", zero_start=False), 48)
    assert not torch.equal(away(context_BSD), context_BSD.mean(dim=1))


def test_same_seed_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(create_model(ModelRecipe(kind="gru"), 16).state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_zero_start_is_refused_for_published_networks_without_a_base(kind: str) -> None:
    with pytest.raises(
        RecipeError,
        match=rf"model\.zero_start: with zero weights in its last layer the published {kind} predicts the zero",
    ) as caught:
        create_model(ModelRecipe(kind=kind, variant="original", zero_start=True), 16)
    assert "\n" not in str(caught.value)


def test_a_query_is_refused_for_published_networks() -> None:
    with pytest.raises(RecipeError, match=r"model\.query: the published networks have no query") as caught:
        create_model(ModelRecipe(kind="amn", variant="original", query=True), 16)
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"'transfromer'.*Did you mean 'transformer'"):
        create_model(ModelRecipe(kind="transfromer"), 16)
    with pytest.raises(RecipeError, match="Did you mean 'ridge'"):
        model_from_config({"kind": "rigde", "dimensions": 16})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "amn"},
        {"kind": "amn", "dimensions": "768"},
        {"kind": "amn", "dimensions": 16, "layers": 3},
        {"kind": "amn", "variant": "residual", "dimensions": 16, "layers": 3},
        {"kind": "amn", "dimensions": 0},
        {"kind": "lstm", "dimensions": 16, "dropout": 7.0},
        {"kind": "lstm", "dimensions": 16, "zero_start": True},
        {"kind": "ridge", "dimensions": 16},
    ],
)
def test_a_broken_config_is_a_checkpoint_error(config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError) as caught:
        model_from_config(config)
    assert "\n" not in str(caught.value)


def test_unit_of_a_zero_vector_is_zero_with_a_finite_gradient() -> None:
    vectors = torch.zeros(3, 8, requires_grad=True)
    with torch.no_grad():
        vectors[1, 0], vectors[2, 0] = ops.MIN_LENGTH / 10, 5.0
    scaled = unit(vectors)
    scaled.sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    torch.testing.assert_close(scaled.norm(dim=1), torch.tensor([0.0, 0.1, 1.0]))
    assert unit(torch.ones(2, 8, dtype=torch.bfloat16)).dtype == torch.float32
    assert unit(torch.ones(2, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_pass_never_waits_for_the_device(name: str) -> None:
    # Tensors on the meta device have no values: reading one raises.
    model = create_model(recipe_of(name), 16).to("meta")
    context_BSD = torch.zeros(4, CONTEXT, 16, device="meta")
    mask_BS = torch.ones(4, CONTEXT, dtype=torch.bool, device="meta")
    for mode in (True, False):
        assert model.train(mode)(context_BSD, mask_BS).shape == (4, 16)


@pytest.mark.parametrize("variant", ["residual", "original"])
@pytest.mark.parametrize("kind", MODELS)
def test_shapes_are_known_without_allocating_a_network(kind, variant):
    config = {"kind": kind, "variant": variant, "dimensions": 16}
    expected = {name: tuple(tensor.shape) for name, tensor in model_from_config(config).state_dict().items()}
    assert tensor_shapes(config) == expected
    huge = tensor_shapes(config | {"dimensions": 10**7})  # terabytes, if they were allocated
    assert max(size for shape in huge.values() for size in shape) >= 10**7
