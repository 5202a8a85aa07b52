#!/usr/bin/env bash
# Submits the steps that were left when `r1 launch` wrote this: each waits until the one before it has succeeded.
set -euo pipefail
job=$(sbatch --parsable TMP/run/launch/01-evaluate.base.sbatch)
job=$(sbatch --parsable --dependency=afterok:"$job" --kill-on-invalid-dep=yes TMP/run/launch/02-first.sbatch)
job=$(sbatch --parsable --dependency=afterok:"$job" --kill-on-invalid-dep=yes TMP/run/launch/04-keep.sbatch)
job=$(sbatch --parsable --dependency=afterok:"$job" --kill-on-invalid-dep=yes TMP/run/launch/05-second.sbatch)
job=$(sbatch --parsable --dependency=afterok:"$job" --kill-on-invalid-dep=yes TMP/run/launch/07-judge.sbatch)
echo "$job"
