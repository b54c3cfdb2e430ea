"""The notebook, run from top to bottom as a browser would run it."""

import base64
import os
from pathlib import Path

import nbformat
import pytest
from hub_server import hub
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "hf_wgan.ipynb"
SMALL = """
resolution, latent_dim, width, learning_rate = 8, 4, 8, 1e-4
max_train_steps = 4
hub_model_id = "me/digits"
"""


def test_it_is_kept_without_outputs():
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What each cell put out, by the cell's id; where it ran; and what is on the Hub then."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += SMALL
    with hub() as server:
        client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", **server.environment("hf_me")})
        published = server.files("me/digits")
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}, folder, published


def test_every_picture_is_shown_and_the_model_is_published(run):
    outputs, _, published = run
    kinds = {
        cell: [kind for output in shown for kind in output.get("data", {}) if kind in ("image/png", "image/gif")]
        for cell, shown in outputs.items()
    }
    assert {cell: kind for cell, kind in kinds.items() if kind} == {
        "data": ["image/png"],
        "train": ["image/png"],
        "show-curves": ["image/png"],
        "show-progress": ["image/png"],
        "show-generate": ["image/png"],
        "show-classes": ["image/png"],
        "show-walk": ["image/gif"],
        "show-best": ["image/png", "image/png"],
    }
    assert {"model_index.json", "README.md", "curves.png"} <= set(published)


def test_training_shows_the_newest_grid_in_one_place(run):
    outputs, folder, _ = run
    (grid,) = [output["data"]["image/png"] for output in outputs["train"] if "data" in output]
    assert base64.b64decode(grid) == (folder / "wgan-digits" / "samples" / "step-000004.png").read_bytes()


def test_training_says_each_thing_once_and_nothing_as_an_error(run):
    said = [output for output in run[0]["train"] if output.output_type == "stream"]
    assert {output.name for output in said} == {"stdout"}
    lines = "".join(output.text for output in said).splitlines()
    assert len(set(lines)) == len(lines) and not any("\r" in output.text for output in said)
    reports = [line.partition(" steps")[0] for line in lines if " steps (" in line]
    assert reports == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert lines[-1] == "Saved the pipeline, samples and curves in wgan-digits."


CELL = """
def train():
    from hf_wgan import RunConfig, build_trainer

    small = dict(resolution=8, generator_width=8, critic_width=8, n_critic=1, max_train_steps=2)
    trainer = build_trainer(RunConfig.resolve(output_dir="two", **small))
    trainer.train()
    trainer.accelerator.end_training()


from accelerate import notebook_launcher

notebook_launcher(train, num_processes=2)
"""


def test_a_cell_starts_two_processes(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = NotebookClient(notebook, timeout=200, resources={"metadata": {"path": tmp_path}})
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert "on 2 × cpu" in "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert (tmp_path / "two" / "model_index.json").is_file()
