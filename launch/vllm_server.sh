#!/usr/bin/env bash
# A server for steps with `engine: vllm_server`; `r1 launch --slurm` starts its own.
#   launch/vllm_server.sh CHECKPOINT [PORT] [TENSOR_PARALLEL_SIZE] [OPTIONS OF vllm serve...]
# CHECKPOINT is a directory (runs/tiny/artifacts/reasoning_rl-...) or a name on the Hub. R1_VLLM is another vllm program;
# R1_VLLM_CPU is the python of an environment with vLLM's CPU build (launch/install_vllm_cpu.sh).
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,5s/^# //p' "$0" >&2
  exit 2
fi
checkpoint=$1
port=${2:-8000}
tensor_parallel_size=${3:-1}
shift "$(($# < 3 ? $# : 3))"

# r1 asks for a directory by its absolute path, or by what engine_options.model says.
if [ -d "$checkpoint" ]; then checkpoint=$(realpath "$checkpoint"); fi
parallel=()
if [ "$tensor_parallel_size" -gt 1 ]; then parallel=(--tensor-parallel-size "$tensor_parallel_size"); fi

# The CPU build has no command that knows its own version, computes in float32, and cannot seed a prompt that is
# prefilled in chunks.
server=("${R1_VLLM:-vllm}" serve "$checkpoint")
if [ -n "${R1_VLLM_CPU:-}" ]; then
  server=("$R1_VLLM_CPU" -m vllm.entrypoints.openai.api_server --model "$checkpoint")
  server+=(--dtype float32 --enforce-eager --no-enable-chunked-prefill)
fi

echo "give its url to the step: --set 'steps.NAME.engine_options.urls=[http://$(hostname):$port]'"
exec "${server[@]}" --port "$port" --logprobs-mode processed_logprobs \
  --served-model-name "$checkpoint" r1 "${parallel[@]}" "$@"
