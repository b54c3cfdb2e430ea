"""Start the processes of a training run, and name the command that started them.

`hf-wgan train` starts its processes by itself, with torchrun's agent, by Accelerate's options and configuration file.
Under `accelerate launch` this starts only what Accelerate leaves to MPI: several processes on CPUs
(huggingface/accelerate#2741).
"""

import logging
import os
import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.commands.config.config_args import ClusterConfig, default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import parse_flag_from_env
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args
from torch.distributed.run import parse_args as parse_torchrun

from ..training.setup import NOT_SUPPORTED, UNSUPPORTED
from ..utils.commands import program
from ..utils.console import say
from ..utils.cores import WAIT_POLICY, OtherPrograms, all_cores, is_crowded, num_cores, spins
from ..utils.errors import InputError, one_line
from ..utils.launcher import number_of
from ..utils.options import Options, option
from ..utils.secrets import without_credentials

COMMAND = "HF_WGAN_COMMAND"
"""Environment variable by which a process knows the command that started it and the others."""
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
"""Signals that are passed on to the processes. SLURM announces the end of a job by SIGUSR1."""
SIGNAL_VARIABLES = ("PET_SIGNALS_TO_HANDLE", "TORCHELASTIC_SIGNALS_TO_HANDLE")
"""Where torchrun's agent reads them, in newer and older releases of PyTorch."""
SECONDS_TO_SAVE = 600  # from a signal on; torchrun's own limit of 30 may cut a checkpoint off
STARTED_BY_ACCELERATE = "ACCELERATE_MIXED_PRECISION"  # which `accelerate launch` sets for every process


@dataclass(frozen=True)
class LaunchOptions(Options):
    """Processes (Accelerate's launch options)"""

    num_processes: int | None = option(
        None, "Number of processes on all machines together; by default one for each GPU.", minimum=1
    )
    cpu: bool | None = option(None, "Train on the CPU even if there is a GPU (default: by Accelerate's configuration).")
    config_file: str | None = option(
        None, "Configuration file written by `accelerate config`; by default the one in the Hugging Face cache."
    )
    num_machines: int | None = option(None, "Number of machines.", minimum=1)
    machine_rank: int | None = option(None, "Number of this machine, from 0.", minimum=0)
    main_process_ip: str | None = option(None, "Address of machine 0.")
    main_process_port: int | None = option(None, "Port of machine 0, by default 29500.", minimum=1, maximum=65535)
    gpu_ids: str | None = option(None, "GPUs of this machine, separated by commas, or `all`.")
    num_cpu_threads_per_process: int | None = option(
        None, "CPU threads of each process; by default an equal share of the cores.", minimum=1
    )


NOT_FOLLOWED = ("enable_cpu_affinity", "mpirun_config", "debug", "parallelism_config", "fp8_config")
"""What else a configuration file of Accelerate may say of a run on these devices."""
NAMES = {field.name for field in fields(LaunchOptions)}


def hints() -> dict[str, str]:
    """Return what to answer to those options of `accelerate launch` that `hf-wgan train` does not have."""
    names = vars(launch_command_parser().parse_args(["script"]))
    return {name: f"accelerate launch has it: accelerate launch --{name} ... -m hf_wgan.cli.train" for name in names}


def start(options: LaunchOptions) -> int | None:
    """Start the processes that the options and Accelerate's configuration ask for, and wait for them.

    Returns:
        The exit code of the run, or None where this process is to train: it is the only one, or one of several that
        have been started already.

    Raises:
        InputError: The options ask for something that cannot be started.
    """
    explicit = {name: value for name, value in vars(options).items() if value is not None}
    if is_one_of_several():
        if explicit and COMMAND not in os.environ:
            name, value = next(iter(explicit.items()))
            raise InputError(f"{name}={value!r}: the processes have been started already; give it to their launcher")
        return None
    if not explicit and STARTED_BY_ACCELERATE in os.environ:
        return _start_beside_accelerate()
    options = choose(options)
    return None if options.num_processes == 1 else _run(options)


def choose(options: LaunchOptions) -> LaunchOptions:
    """Complete the options by Accelerate's configuration and this machine, and choose the devices and threads.

    Returns:
        The options, with the number of processes.

    Raises:
        InputError: The options ask for something that cannot be started.
    """
    typed = options.gpu_ids if options.gpu_ids != "all" else None
    addresses = {"main_process_ip": options.main_process_ip, "main_process_port": options.main_process_port}
    options = _with_configuration(options)
    if options.cpu and typed:
        raise InputError(f"gpu_ids={typed!r}: has no effect with cpu; leave one of them out")
    if options.cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if options.gpu_ids not in (None, "all"):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(options.gpu_ids)
    num_gpus = 0 if options.cpu else torch.cuda.device_count()
    if typed and num_gpus < len(typed.split(",")):
        answer = f"only {num_gpus} of these GPUs; name those" if num_gpus else "none of these GPUs; leave it out"
        raise InputError(f"gpu_ids={typed!r}: this machine has {answer}")
    num_processes, num_machines = options.num_processes or max(num_gpus, 1), options.num_machines or 1
    if num_processes % num_machines:
        number = options.num_processes or f"None (here {num_processes})"
        raise InputError(
            f"num_processes={number}: must be a multiple of num_machines={num_machines}; it counts the processes "
            "of all machines"
        )
    if (options.machine_rank or 0) >= num_machines:
        raise InputError(f"machine_rank={options.machine_rank}: must be below num_machines={num_machines}")
    num_here = num_processes // num_machines
    if 0 < num_gpus < num_here:
        raise InputError(f"num_processes={num_processes}: this machine has {num_gpus} GPUs; use as many, or --cpu")
    if not options.num_machines:  # a job script that names their number names the address for a single one too
        for name, value in addresses.items():
            if value is not None and num_processes == 1:
                raise InputError(f"{name}={value!r}: has no effect on one process; leave it out, or set num_machines")
        if options.main_process_ip and not options.main_process_port:
            raise InputError(
                f"main_process_ip={options.main_process_ip!r}: has no effect on one machine; leave it out, or set "
                "num_machines"
            )
    options = replace(options, num_processes=num_processes)
    if num_processes > 1 and not num_gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    is_limited = num_cores() < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ  # in a container
    if num_processes > 1 or options.num_cpu_threads_per_process or is_limited:
        torch.set_num_threads(num_threads_of(options))
    return options


def num_threads_of(options: LaunchOptions) -> int:
    """Return the number of threads of each process, by default an equal share of the cores."""
    num_here = (options.num_processes or 1) // (options.num_machines or 1)
    return options.num_cpu_threads_per_process or max(1, num_cores() // num_here)


def is_one_of_several() -> bool:
    """Return whether a launcher has started this process as one of a group."""
    return number_of("size", 0) > 0 or COMMAND in os.environ


def start_again_if_crowded(others: OtherPrograms) -> None:
    """Replace this process by one whose threads sleep while they wait, if other programs keep the cores busy.

    OpenMP reads its policy when PyTorch is loaded, so it takes a new start. Nothing is done where this process is no
    command of its own, such as in a notebook, where a GPU trains, or where the policy is set.

    Args:
        others: What other programs did since this process began.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if not (on_cpu and spins() and not is_one_of_several() and is_own_command()):
        return
    busy = others.cores()
    if not is_crowded(busy):
        return
    say(
        f"Other programs keep {busy:.1f} of {all_cores()} cores busy: starts again with {WAIT_POLICY}=PASSIVE, "
        "so that threads which wait for each other do not take the cores."
    )
    os.environ[WAIT_POLICY] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_own_command() -> bool:
    """Return whether the command line of this process is the one that trains, and starts it again."""
    words = sys.argv[1:]
    if sys.orig_argv[len(sys.orig_argv) - len(words) :] != words:
        return False
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    module, script = spec.name if spec else "", Path(getattr(main, "__file__", None) or "").stem
    return module.partition(".")[0] == "hf_wgan" or script in ("hf-wgan", "train_wgan")


def command_line() -> str:
    """Return the command that started this run, with its launcher and without credentials, for the record."""
    if COMMAND in os.environ:
        return os.environ[COMMAND]
    words = ["python", *_program(), *sys.argv[1:]]
    if sys.argv[0].startswith("hf-wgan "):  # as `main` names the program
        words = [*program(), *sys.argv[0].split()[1:], *sys.argv[1:]]
    parents = psutil.Process().parents()
    for launcher, words_after in LAUNCHERS.items():
        if launched := next(filter(None, map(words_after, parents)), None):
            words = [*launcher.split(), *launched]
            break
    return shlex.join(without_credentials(words))


def _start_beside_accelerate() -> int | None:
    """Start several CPU processes where `accelerate launch` was asked for them and has started one."""
    if not parse_flag_from_env("ACCELERATE_USE_CPU") or "MASTER_ADDR" not in os.environ:
        return None
    parent = psutil.Process().parent()
    words = _words_after_launch(parent) if parent else None
    if words is None:
        return None
    arguments = launch_command_parser().parse_args(words)
    names = ("num_processes", "num_machines", "machine_rank")
    by_default = os.path.isfile(default_config_file) and not arguments.cpu  # as Accelerate has it
    options = _filled(
        LaunchOptions(**{name: getattr(arguments, name) for name in names}),
        arguments.config_file or (default_config_file if by_default else None),
    )
    if (options.num_processes or 1) < 2:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return _run(replace(options, main_process_ip=address, main_process_port=port))


def _with_configuration(options: LaunchOptions) -> LaunchOptions:
    """Return the options, with what they leave open from Accelerate's configuration file."""
    if options.config_file:
        if not os.path.isfile(options.config_file):
            raise InputError(
                f"config_file={options.config_file!r}: there is no such file; `accelerate config` writes one"
            )
        return _filled(options, options.config_file)
    return _filled(options, default_config_file if os.path.isfile(default_config_file) else None)


def _filled(options: LaunchOptions, config_file: str | None) -> LaunchOptions:
    if config_file is None:
        return options
    try:
        config = load_config_from_file(config_file)
    except Exception as error:  # a file of another kind raises whatever its content leads to
        raise InputError(f"config_file={config_file!r}: cannot be read ({one_line(error)})") from error
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    if not isinstance(config, ClusterConfig) or kind in UNSUPPORTED:
        raise InputError(f"config_file={config_file!r}: {NOT_SUPPORTED.format(kind)}")
    os.environ.setdefault(STARTED_BY_ACCELERATE, str(config.mixed_precision or "no"))
    for name, value in (config.dynamo_config or {}).items():  # as Accelerate's launcher passes it on
        os.environ.setdefault(f"ACCELERATE_{name.upper()}", str(value))
    if unused := [name for name in NOT_FOLLOWED if getattr(config, name, None)]:
        say(f"config_file={config_file!r}: {', '.join(unused)} acts with accelerate launch alone.")
    recorded: dict[str, Any] = {name: getattr(config, name, None) for name in NAMES}
    recorded["cpu"] = getattr(config, "use_cpu", None)
    if recorded["gpu_ids"] is not None:
        recorded["gpu_ids"] = str(recorded["gpu_ids"])
    return replace(
        options,
        **{name: value for name, value in recorded.items() if value is not None and getattr(options, name) is None},
    )


def _run(options: LaunchOptions) -> int:
    """Run this machine's processes under torchrun's agent; return the exit code of the run."""
    num_machines = options.num_machines or 1
    num_here = (options.num_processes or 1) // num_machines
    os.environ[COMMAND] = command_line()
    if options.num_cpu_threads_per_process:
        os.environ.pop("OMP_NUM_THREADS", None)  # which an explicit option overrides
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads_of(options)))
    for name in SIGNAL_VARIABLES:
        os.environ.setdefault(name, SIGNALS)
    words: list[Any] = ["--nproc_per_node", num_here]
    if num_machines > 1 or options.main_process_port:
        address = options.main_process_ip or "127.0.0.1"
        words += ["--nnodes", num_machines, "--node_rank", options.machine_rank or 0]
        words += ["--master_addr", address, "--master_port", options.main_process_port or 29500]
    else:
        words += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--local_addr", "localhost"]
    config, program, arguments = config_from_args(parse_torchrun([*map(str, words), *_program(), *sys.argv[1:]]))
    if hasattr(config, "shutdown_timeout"):  # not in older releases of PyTorch
        config.shutdown_timeout = SECONDS_TO_SAVE
    # The processes say themselves why they end.
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    try:
        elastic_launch(config, program)(*arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


def _program() -> list[str]:
    """Return what this process runs, as words after `python`: `-m` and a module, or a script."""
    if sys.argv[0].startswith("hf-wgan "):
        return ["-m", "hf_wgan.cli.train"]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name] if spec is not None and spec.name.startswith("hf_wgan.") else sys.argv[:1]


def _words_after_launch(process: psutil.Process) -> list[str] | None:
    """Return what follows `accelerate launch` on a process's command line; None if it is something else."""
    words = _words(process)
    names = [os.path.basename(word) for word in words]
    if "accelerate" in names and "launch" in names:
        return words[names.index("launch", names.index("accelerate")) + 1 :]
    for name in ("accelerate-launch", "accelerate.commands.launch"):
        if name in names:
            return words[names.index(name) + 1 :]
    return None


def _words_after_uv(process: psutil.Process) -> list[str] | None:
    """Return what follows `uv` on the command line of `uv run`; None if it is something else."""
    words = _words(process)
    return words[1:] if words and os.path.basename(words[0]) == "uv" and "run" in words else None


def _words_after_torchrun(process: psutil.Process) -> list[str] | None:
    """Return what follows `torchrun` on a process's command line; None if it is something else."""
    words = _words(process)
    at = next((at for at, word in enumerate(words) if os.path.basename(word) in TORCHRUN), None)
    return None if at is None else words[at + 1 :]


LAUNCHERS = {"accelerate launch": _words_after_launch, "uv": _words_after_uv, "torchrun": _words_after_torchrun}
TORCHRUN = ("torchrun", "torch.distributed.run")
"""Its names, as a command and as a module."""


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
