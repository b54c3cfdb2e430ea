"""What every training process of the tests does first, done once in the process that they are forked from."""

import io

import jinja2.ext  # noqa: F401
import matplotlib.figure
import sklearn.datasets

import hf_wgan.cli.launch
import hf_wgan.cli.train
import hf_wgan.training.report  # noqa: F401
from hf_wgan import DCGANCritic, DCGANGenerator
from hf_wgan.hub.code import code_of
from hf_wgan.pipelines.pipeline_wgan import WGANPipeline

sklearn.datasets.load_digits()
for carried in (WGANPipeline, DCGANGenerator, DCGANCritic):
    code_of(carried)
figure = matplotlib.figure.Figure()
figure.subplots().set_title("fonts")
figure.savefig(io.BytesIO())
