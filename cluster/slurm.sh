#!/usr/bin/env bash
# A training run on SLURM: one Ray over all nodes of the allocation, for as long as the run takes.
#   sbatch --nodes=2 cluster/slurm.sh configs/gsm8k_lora_cluster.yaml
#   scancel --signal=TERM --batch JOB      # the step under way is finished and saved; resubmitting goes on from there
# The working directory, the virtual environment and the run directory must be on storage that all nodes share; the
# config names its run_dir, so that a job which was requeued finds it.
#SBATCH --job-name=bolt-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# Ten minutes before the time is over, and on preemption: for a step and its checkpoint.
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: sbatch cluster/slurm.sh CONFIG [key.sub=value …]" >&2; exit 2; }
source "${BOLT_RAY_VENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"
cd "$SLURM_SUBMIT_DIR"

# Others may have processes on these machines' network: only who has this file's token is answered.
umask 077
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_ADDRESS=$head:$port
gpus=${SLURM_GPUS_ON_NODE:-0}
common=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
  ray start --head --node-ip-address="$head" --port="$port" --dashboard-host=127.0.0.1 "${common[@]}" &
ray_pids=($!)
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(IFS=,; echo "${nodes[*]:1}")
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap -w "$others" \
    ray start --address="$RAY_ADDRESS" "${common[@]}" &
  ray_pids+=($!)
fi
ended() { kill "${ray_pids[@]}" 2>/dev/null || true; rm -f "$RAY_AUTH_TOKEN_PATH"; }
trap ended EXIT

for _ in $(seq 120); do
  alive=$(python -c 'import ray; ray.init(logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))' 2>/dev/null || echo 0)
  [ "$alive" -ge "${#nodes[@]}" ] && break
  sleep 2
done
[ "$alive" -ge "${#nodes[@]}" ] || { echo "slurm.sh: $alive of ${#nodes[@]} nodes came up in time" >&2; exit 1; }

# The batch script gets the signal: the run gets it from here, and is waited for. A job that was requeued goes on.
python -m bolt_ray.cli train "$@" resume=if_any &
run=$!
trap 'kill -TERM "$run" 2>/dev/null || true' TERM INT
code=0
while true; do
  wait "$run" && code=0 || code=$?
  kill -0 "$run" 2>/dev/null || break
done
if [ "$code" -eq 130 ] && [ -n "${BOLT_RAY_REQUEUE:-}" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
