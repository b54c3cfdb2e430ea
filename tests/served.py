"""The demo's page, served in this process for as long as a test needs it."""

from contextlib import contextmanager

import pytest

from hf_wgan.pipelines.demo import launch, page


@contextmanager
def served(pipeline, folder, name="wgan-tiny"):
    """The address of a pipeline's page, which keeps its files in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        blocks = page(pipeline, name)
        launch(blocks, server_name="127.0.0.1", share=False, quiet=True, prevent_thread_lock=True)
        try:
            yield blocks.local_url
        finally:
            blocks.close(verbose=False)
