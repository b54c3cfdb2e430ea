"""`hf-wgan demo`: a page in a browser."""

import errno
import os
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import InputError, one_line
from ..utils.options import Options, option
from .common import MODEL_HELP, ModelOptions, command, load_pipeline, parser_for


@dataclass(frozen=True)
class DemoConfig(Options):
    """The page"""

    host: str = option(
        "127.0.0.1", "Address to listen on. The default accepts this machine only, 0.0.0.0 the network too."
    )
    port: int | None = option(
        None, "Port to listen on; by default the first free one from 7860.", minimum=1, maximum=65535
    )
    share: bool = option(False, "Create a public address on Gradio's servers, valid for a week.")


@command
def demo(args: Sequence[str] | None = None) -> int:
    """Serve a page to play with a trained model in a browser: seeds, truncation, classes, videos; until Ctrl-C.

    hf-wgan demo wgan-digits
    """
    from ..pipelines.demo import launch, page
    from ..utils.processes import this_process

    parser = parser_for(demo, "demo", DemoConfig, ModelOptions)
    parser.add_argument("model", help=MODEL_HELP)
    parsed = parser.parse(args)
    (config, model_options), model = parsed.configs, parsed.others["model"]
    _check_address(config.host, config.port)
    pipeline = load_pipeline(model, model_options)
    pipeline.to(this_process().device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        blocks = page(pipeline, Path(model).resolve().name if Path(model).is_dir() else model)
        address = {"server_name": config.host, "server_port": config.port, "share": config.share}
        try:
            launch(blocks, **address, ssr_mode=False, quiet=True, prevent_thread_lock=True)
        except Exception as error:  # Gradio raises plain exceptions, such as where a proxy hides this machine from it
            raise InputError(f"host={config.host!r}: the page cannot be served ({one_line(error)})") from error
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell lets its background jobs ignore
        print(f"Serving {model} at {blocks.local_url} until Ctrl-C.", flush=True)
        while True:
            time.sleep(60)  # which Ctrl-C also ends on Windows, unlike the wait for a lock


def _check_address(host: str, port: int | None) -> None:
    """Check that the address can be listened on; Gradio would try a hundred ports first, for seconds each.

    Raises:
        InputError: Nothing can listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port={port}: is in use; name another, or leave it out") from error
        raise InputError(f"host={host!r}, port={port}: cannot be listened on ({one_line(error)})") from error
