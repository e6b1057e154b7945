#!/usr/bin/env bash
# Usage: tpu/status.sh [LINES]
#
# Shows the state of the queued resource and of the slice, and for each worker whether training is
# running and the last LINES (default 3) of its log.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
[[ $# -le 1 && ${1-3} =~ ^[0-9]+$ ]] || fail 2 "$*: not a number of lines; see --help"

request=$(state_of request)
slice=$(state_of slice)
echo "request $JAXIR_TPU_NAME ($kind in $JAXIR_TPU_ZONE): $request"
echo "slice $JAXIR_TPU_NAME: $slice"
[[ $slice == READY ]] || exit 0

# a look, not a wait
JAXIR_TPU_TRIES=1
status=0
on all "bash jaxir-tpu/worker.sh report ${1-3}" || status=$?
sort -s -n -k 2 "$scratch/answer"
case $status in
  0) ;;
  127) echo "nothing is installed on some workers: tpu/setup.sh" ;;
  255) fail 75 "not all workers answer: $(message)" ;;
  *) fail 1 "$(message)" ;;
esac
