#!/bin/bash
# Slurm: sbatch examples/farm/slurm.sh scans/ restored/
# 32 tasks, 8 at a time, two minutes of notice before the time limit; a task that is requeued does what is left.
# Afterwards: sbatch --dependency=afterany:JOB --wrap "varestorer restore --merge restored/"
#SBATCH --job-name=restore
#SBATCH --array=0-31%8
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -u
parts=${PARTS:-32} # as many as the array has, also when only some of its tasks are submitted again
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it over since Slurm 22.05
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

srun ${VARESTORER:-varestorer} restore "$1" "$2" --shard "auto/$parts" --quiet
code=$?
if [ $code = 130 ] || [ $code = 143 ]; then # told to stop: go on later
    scontrol requeue "$task"
elif [ $code = 5 ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then # the disk: once more
    scontrol requeue "$task"
fi
exit $code
