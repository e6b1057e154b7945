#!/usr/bin/env bash
# Usage: tpu/babysit.sh --config tpu_v4.py [--config.FIELD=VALUE ...] [--workdir DIR]
#
# Trains to the end, whatever becomes of the slice: creates it (tpu/create.sh), sets it up
# (tpu/setup.sh) and trains (tpu/run.sh); where the slice is taken back or the training breaks off,
# does so again after a pause, and the training goes on from its last checkpoint. Pauses grow while no
# new checkpoint comes, and after JAXIR_TPU_ATTEMPTS such attempts it gives up. It must stay running:
# start it where it can, in tmux for example.
#
# Stops at once where the arguments or settings are wrong (status 2), after tpu/stop.sh (143) and
# after Ctrl-C (130; the training goes on, the same command comes back to it).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
read_arguments "$@"

interrupted() {
  say "nobody looks after slice $JAXIR_TPU_NAME now; the same command does so again"
  exit 130
}
trap interrupted INT

# The checkpoints that would be resumed from; another answer means progress. Fails where the cloud
# gives no answer, which means nothing.
newest() {
  [[ $checkpoints == gs://* ]] || return 0
  gcloud storage ls "$checkpoints/" </dev/null 2>"$scratch/errors" ||
    grep -q 'matched no objects' "$scratch/errors"
}

running() {
  worker_states && workers_that running >/dev/null
}

stopped() {
  worker_states && workers_that stopped >/dev/null
}

attempt() { # ARGUMENTS
  "$here/create.sh" || return
  # setup.sh refuses where training is running, and there is nothing to do then
  running || "$here/setup.sh" || return
  "$here/run.sh" "$@"
}

[[ $checkpoints == gs://* ]] ||
  say "warning: checkpoints in $checkpoints vanish with the slice; only a gs:// folder stays"
before=$(newest) || true
attempts=0
pause=$JAXIR_TPU_BACKOFF
while :; do
  status=0
  attempt "$@" || status=$?
  case $status in
    0)
      say "slice $JAXIR_TPU_NAME stays, and costs, until tpu/delete.sh"
      exit 0
      ;;
    2) fail 2 "a mistake that another attempt would not mend (see above)" ;;
    130) interrupted ;;
    75) ;;
    *)
      if stopped; then
        say "stopped by tpu/stop.sh; the same command goes on"
        exit 143
      fi
      ;;
  esac
  now=$(newest) || now=$before
  if [[ $now != "$before" ]]; then
    before=$now attempts=0 pause=$JAXIR_TPU_BACKOFF
    say "this attempt ended with status $status after a new checkpoint; the next in $pause s"
  else
    attempts=$((attempts + 1))
    ((attempts < JAXIR_TPU_ATTEMPTS)) ||
      fail "$status" "gave up after $attempts attempts without a new checkpoint (JAXIR_TPU_ATTEMPTS)"
    say "this attempt ended with status $status without a new checkpoint ($attempts of $JAXIR_TPU_ATTEMPTS); the next in $pause s"
  fi
  sleep "$pause"
  pause=$((pause * 2 < JAXIR_TPU_BACKOFF_LIMIT ? pause * 2 : JAXIR_TPU_BACKOFF_LIMIT))
done
