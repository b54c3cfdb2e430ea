#!/bin/bash
# Train on the GPUs of several nodes, or on their CPUs if they have no GPUs, and resume by itself after the time limit.
# Submit it in the clone's folder, in an environment with hf_wgan, with an output folder that all nodes share:
#
#   OUTPUT_DIR=/shared/wgan-photos sbatch --nodes 2 --gpus-per-node 4 examples/slurm.sh --train_data_dir photos --preset wgan-color
#
# The arguments after the script's name are options of hf-wgan train.
#SBATCH --job-name=hf_wgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

output_dir=${OUTPUT_DIR:-wgan-$SLURM_JOB_ID}
resume=()
if compgen -G "$output_dir/checkpoint-*" > /dev/null; then
  resume=(--resume_from_checkpoint latest)
fi

gpus=${SLURM_GPUS_ON_NODE:-0}
processes=$((SLURM_NNODES * (gpus > 0 ? gpus : 1)))
launch=(--num_machines "$SLURM_NNODES" --num_processes "$processes")
launch+=(--main_process_ip "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)")
launch+=(--main_process_port "$((20000 + SLURM_JOB_ID % 10000))")
if ((gpus == 0)); then
  launch+=(--cpu)
fi

# Five minutes before the time limit SLURM sends SIGUSR1 to this shell only, and srun forwards it to every process, which
# ends the training with a checkpoint.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
time_is_up=
trap 'time_is_up=yes; kill -USR1 "$step"' USR1
# Single quotes, because each task has its own SLURM_NODEID. Until hf-wgan has its own handler, the signal is ignored.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 bash -c 'trap "" USR1; exec hf-wgan train --machine_rank "$SLURM_NODEID" "$@"' bash \
  "${launch[@]}" --output_dir "$output_dir" "${resume[@]}" "$@" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2> /dev/null; do # a signal ends the wait before srun has ended
  wait "$step"
  code=$?
done
if [ -n "$time_is_up" ] && [ "$code" -ne 0 ]; then # otherwise the training is complete
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
