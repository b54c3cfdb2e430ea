import subprocess
import sys

import pytest

import hf_wgan


def test_importing_it_pulls_in_no_plotting_no_page_no_scikit_learn_and_no_datasets():
    # What diffusers itself imports where it is installed (SciPy, say) is none of ours.
    code = """
import sys, diffusers, diffusers.pipelines.pipeline_utils, diffusers.models
before = set(sys.modules)
import hf_wgan
heavy = {"gradio", "matplotlib", "sklearn", "datasets", "pandas", "pyarrow", "scipy"}
print(sorted(heavy & (set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in hf_wgan.__all__:
        assert getattr(hf_wgan, name) is not None
    with pytest.raises(AttributeError, match="discriminator"):
        hf_wgan.discriminator  # noqa: B018
