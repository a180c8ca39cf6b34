#!/bin/bash
# Trains on a Slurm cluster, one process per GPU, over as many machines as asked for; explained in docs/distributed.md:
#   sbatch scripts/slurm_train.sh options/train_std.yml
#   sbatch --nodes=1 --gpus-per-node=8 --ntasks-per-node=8 scripts/slurm_train.sh options/train_std.yml
#SBATCH --job-name=kdsr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log

options=${1:?usage: sbatch scripts/slurm_train.sh OPTIONS.yml [further flags of kdsr train]}
shift

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it over from sbatch by itself

srun --kill-on-bad-exit=1 kdsr train -opt "$options" --launcher slurm --auto_resume "$@"
code=$?

if [ "$code" -eq 143 ]; then # SIGTERM, 180 s before the time is over or when the job has to make room: state saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
