#!/usr/bin/env bash
# Usage: tpu/stop.sh
#
# Stops the training on all workers: sends SIGTERM, on which it saves a checkpoint and ends, and waits
# for that. The slice stays, and costs: tpu/delete.sh gives it back.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
no_arguments "$@"

states() {
  local status=0
  worker_states || status=$?
  ((status != 255)) || lost
  ((status == 0 || status == 127)) || fail 1 "the workers' state is unknown: $(message)"
}

states
if ! workers_that running >/dev/null; then
  say "no training is running on slice $JAXIR_TPU_NAME"
  exit 0
fi
status=0
on all "bash jaxir-tpu/worker.sh stop" || status=$?
((status != 255)) || lost
while IFS= read -r line; do say "$line"; done < <(sort -s -n -k 2 "$scratch/answer")

while :; do
  states
  left=$(workers_that running) || break
  ((SECONDS < JAXIR_TPU_STOP_LIMIT)) ||
    fail 1 "worker $left: still running after $SECONDS s (JAXIR_TPU_STOP_LIMIT); it may still be saving: tpu/status.sh"
  sleep "$JAXIR_TPU_POLL"
done
say "stopped with status $(cut -d' ' -f4 "$scratch/states" | sort -u | paste -sd, -) (143 means: saved)"
