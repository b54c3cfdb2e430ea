"""Makes `accelerate launch --cpu --num_processes N` start N processes.

Accelerate leaves several processes on CPUs to MPI: without an MPI host file its launcher starts one, and says nothing
(huggingface/accelerate#2741). This recognises that case and starts the same script again under torchrun, which asks for
nothing more. On GPUs Accelerate's launcher does all of this itself.
"""

import os
import shlex
import socket
import sys
from argparse import Namespace

import psutil
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import get_int_from_env, parse_flag_from_env

SIGNALS_TO_PASS_ON = ["PET_SIGNALS_TO_HANDLE", "TORCHELASTIC_SIGNALS_TO_HANDLE"]
"""Where torchrun reads which signals it passes on to its processes, today and before. SLURM's is SIGUSR1."""
WORLD_SIZES = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def relaunch_on_cpus() -> None:
    """Replaces this process by torchrun, if `accelerate launch` was asked for several CPU processes and started one."""
    asked_for_several = parse_flag_from_env("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ
    if not asked_for_several or get_int_from_env(WORLD_SIZES, 0) > 0:
        return
    launch = _launch_arguments(psutil.Process().parent())
    if launch is None:
        return
    num_machines = launch.num_machines or 1
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += ["--nproc_per_node", str(launch.num_processes // num_machines)]
    if num_machines > 1:
        command += ["--nnodes", str(num_machines), "--node_rank", str(launch.machine_rank or 0)]
        command += ["--master_addr", os.environ["MASTER_ADDR"]]
        if interface := _interface_towards(os.environ["MASTER_ADDR"]):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    command += ["--master_port", os.environ["MASTER_PORT"], *_program(), *sys.argv[1:]]
    for name in SIGNALS_TO_PASS_ON:
        os.environ.setdefault(name, "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)


def _program() -> list[str]:
    """Return what this process runs, as words after `python`: `-m` and a module, or a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name] if spec is not None and spec.name.startswith("hf_wgan.") else sys.argv[:1]


def _interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches another. PyTorch by itself takes that of the machine's own
    name, which is often one that no other machine can reach."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # which sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    addresses = psutil.net_if_addrs().items()
    return next((name for name, found in addresses for each in found if each.address == own), None)


def command_line() -> str:
    """The command that started this process, with the launcher's options where it was `accelerate launch` or `uv run`,
    and without the token, for the record of a run."""
    words = ["python", *_program(), *sys.argv[1:]]
    if sys.argv[0].startswith("hf-wgan "):  # as `main` names the program
        words = [*sys.argv[0].split(), *sys.argv[1:]]
    for process in psutil.Process().parents():
        if launched := _words_after_launch(process):
            words = ["accelerate", "launch", *launched]
            break
        if run := _words_after_uv(process):
            words = ["uv", *run]
            break
    public = [word for word in words if not word.startswith("--hub_token=")]
    while "--hub_token" in public:
        at = public.index("--hub_token")
        del public[at : at + 2]
    return shlex.join(public)


def _launch_arguments(launcher: psutil.Process | None) -> Namespace | None:
    """What `accelerate launch` was given, on its command line or in its configuration file; None if it is not known."""
    words = _words_after_launch(launcher) if launcher else None
    if words is None:
        return None
    arguments = launch_command_parser().parse_args(words)
    by_default = os.path.isfile(default_config_file) and not arguments.cpu  # as Accelerate has it
    config_file = arguments.config_file or (default_config_file if by_default else None)
    config = load_config_from_file(config_file) if config_file else None
    for name in ("num_processes", "num_machines", "machine_rank"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(config, name, None))
    return arguments if (arguments.num_processes or 1) > 1 else None


def _words_after_launch(process: psutil.Process) -> list[str] | None:
    """What follows `accelerate launch` on a process's command line; None if it is something else."""
    words = _words(process)
    names = [os.path.basename(word) for word in words]
    if "accelerate" in names and "launch" in names:
        return words[names.index("launch", names.index("accelerate")) + 1 :]
    for name in ("accelerate-launch", "accelerate.commands.launch"):
        if name in names:
            return words[names.index(name) + 1 :]
    return None


def _words_after_uv(process: psutil.Process) -> list[str] | None:
    """What follows `uv` on the command line of `uv run`; None if it is something else."""
    words = _words(process)
    return words[1:] if words and os.path.basename(words[0]) == "uv" and "run" in words else None


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
