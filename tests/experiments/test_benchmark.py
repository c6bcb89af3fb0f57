"""The benchmark: frozen tasks, the same windows and baselines for every model, results as files, one page of them."""

import json
import re
from pathlib import Path

import pytest

import nextvec
from nextvec.errors import InputError
from nextvec.experiments import benchmark
from nextvec.experiments.benchmark_tasks import TASKS, TaskText, content_hash, known_tasks, load_task, open_task
from nextvec.reports.benchmark import PAGE, RESULTS, TaskResult, benchmark_view, read_results


@pytest.fixture(scope="module")
def folder(text_store, text_run, tmp_path_factory):
    """A benchmark's folder with one task and the results of a model and of a recipe with two seeds."""
    folder = tmp_path_factory.mktemp("benchmark")
    nextvec.benchmark_add(text_store.path, name="texts", description="Short texts.", min_context=3, out=folder)
    recipe = folder / "small.toml"
    recipe.write_text(
        'name = "small"\n[training]\nepochs = 1\nbatch_size = 32\n[data]\ncontext = 2\n'
        "[evaluation]\nresamples = 100\nridge_windows = 1000\n[runtime]\nthreads = 1\n"
    )
    # The fixture's texts are too few for a green data check, which is not what is tested here.
    with pytest.MonkeyPatch.context() as patch:
        train = benchmark.train_recipe
        patch.setattr(benchmark, "train_recipe", lambda *args, **options: train(*args, force=True, **options))
        nextvec.benchmark_run(
            [str(text_run), str(recipe)], tasks=["texts"], seeds=[0, 1], out=folder, device="cpu", quiet=True
        )
    return folder


def test_all_models_are_scored_on_the_same_windows_whatever_their_context(folder):
    results = read_results(folder).results
    assert [(result.model, result.seed, result.context, result.trained) for result in results] == [
        ("small", 0, 2, True),
        ("small", 1, 2, True),
        ("texts", None, 4, False),
    ]
    splits = [result.evaluation.splits["val"] for result in results]
    assert len({(split.windows, split.candidates, split.queries) for split in splits}) == 1
    # Baselines are fitted with the task's seed on its train split, so that they do not depend on the training.
    first, second = (split.predictors["ridge"].cosine for split in splits[:2])
    assert first == second


def test_the_page_is_made_of_the_files(folder):
    page = (folder / PAGE).read_text()
    assert "## texts (version 1)" in page and re.search(
        r"\| [●▲■] small \(trained\) \| 2 \| 2 \| [\d.]+ ±[\d.]+ \|", page
    )
    baselines = re.findall(r"^\| [\w-]+ \|  \| \d \| .*", page, flags=re.MULTILINE)
    assert len(baselines) >= 2 and "clean" in page
    (folder / PAGE).unlink()
    nextvec.benchmark_show(out=folder)
    assert (folder / PAGE).read_text() == page


def test_a_finished_run_is_used_again(folder, monkeypatch):
    monkeypatch.setattr(benchmark, "train_recipe", lambda *_, **__: pytest.fail("trained again"))
    nextvec.benchmark_run([str(folder / "small.toml")], tasks=["texts"], out=folder, device="cpu", quiet=True)


def test_the_model_that_was_trained_on_the_task_is_marked(folder, text_run):
    # text_run was trained on the train split of this store only, so nothing of val was seen.
    by_name = {result.model: result for result in read_results(folder).results}
    assert by_name["texts"].evaluation.seen.label("val") == "clean"


def test_results_survive_json_and_damaged_files_are_listed(folder, tmp_path):
    result = read_results(folder).results[0]
    assert TaskResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    (tmp_path / RESULTS / "texts").mkdir(parents=True)
    (tmp_path / RESULTS / "texts" / "broken.json").write_text("{")
    (tmp_path / RESULTS / "texts" / "older.json").write_text(json.dumps({**result.to_dict(), "format": 0}))
    board = read_results(tmp_path)
    assert not board.results and len(board.damaged) == 2
    assert "run the task again" in benchmark_view(board).markdown()


def test_other_content_is_another_table_and_is_named(folder):
    results = read_results(folder).results
    other = TaskResult.from_dict({**results[0].to_dict(), "content": "f" * 64, "is_frozen": False})
    text = benchmark_view(read_results(folder).__class__("", (*results, other))).markdown()
    assert text.count("## texts (version 1)") == 2 and "Other text than the task's: content ffffffff" in text


def test_a_store_that_changed_is_refused(folder, make_store, tmp_path):
    store = make_store(tmp_path / "toy")
    nextvec.benchmark_add(store.path, name="toy", out=tmp_path)
    task = load_task("toy", tmp_path)
    assert open_task(task)[1] == content_hash(store) == task.content
    other = make_store(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"^task toy: the store .* is not the one that was frozen"):
        open_task(task.model_copy(update={"store": str(other.path)}))
    with pytest.raises(InputError, match=r"^task 'toy' exists with other content"):
        nextvec.benchmark_add(other.path, name="toy", out=tmp_path)


def test_content_is_that_of_the_texts_not_of_the_last_digits(text_store, texts, tmp_path):
    again = nextvec.data_build([texts], out=tmp_path / "again", val=0.2, dimensions=12, quiet=True)
    other = nextvec.data_build([texts], out=tmp_path / "other", val=0.2, dimensions=8, quiet=True)
    assert content_hash(again) == content_hash(other) != content_hash(text_store)


@pytest.mark.parametrize(
    "models, options, message",
    [
        ([], {}, "no model named"),
        (["wiki-minilmm"], {}, "'wiki-minilmm' is neither a model nor a recipe. Did you mean 'wiki-minilm'?"),
        (["recipe:dem"], {}, "recipe 'dem' is unknown. Did you mean 'demo'?"),
        (["demo"], {"tasks": ["nothing.toml"]}, "task nothing.toml: no such file. "),
        (["demo"], {"tasks": ["python-dogs"]}, "task 'python-dogs' is unknown. Did you mean 'python-docs'?"),
    ],
)
def test_wrong_names_are_refused_before_any_work(models, options, message, tmp_path):
    with pytest.raises(InputError, match="^" + message.replace("?", r"\?")):
        nextvec.benchmark_run(models, out=tmp_path, quiet=True, **options)


def test_models_of_one_name_do_not_replace_each_other(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "run").mkdir(parents=True)
    models = [str(tmp_path / parent / "run") for parent in ("a", "b")]
    with pytest.raises(InputError, match=r"have the same name, run, and would replace each other's results"):
        nextvec.benchmark_run(models, tasks=["python-docs"], out=tmp_path / "out", quiet=True)


def test_a_recipe_with_any_name_is_a_file(folder):
    result = read_results(folder).results[0]
    assert TaskResult.from_dict({**result.to_dict(), "model": "a/b c"}).file_name.startswith("a_b_c-seed0-")


def test_a_model_of_another_space_is_reported(folder, other_store, tmp_path):
    store = other_store(dimensions=8)
    nextvec.benchmark_add(store.path, name="small-vectors", out=tmp_path)
    with pytest.raises(InputError, match=r"^benchmark: nothing could be evaluated \(wiki-minilm on small-vectors: "):
        nextvec.benchmark_run(["wiki-minilm"], tasks=["small-vectors"], out=tmp_path, device="cpu", quiet=True)


@pytest.mark.parametrize(
    "content, message",
    [
        ('name = "x"', "a task has either"),
        ('name = "a/b"\nstore = "s"', "name: .*it becomes a file name"),
        ('name = "x"\nstore = "s"\nmin_context = 0', "min_context: Input should be greater than 0"),
        ("name", "cannot be read"),
    ],
)
def test_malformed_tasks_are_one_line(content, message, tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=rf"^task {file}: .*{message}"):
        load_task(str(file))


def test_shipped_tasks_are_frozen():
    for name in ("python-docs", "python-docs-minilm"):
        task = load_task(name)
        assert task.name == name and isinstance(task.text, TaskText) and len(task.content) == 64
    assert Path(known_tasks()["python-docs"]).parent.name == TASKS
