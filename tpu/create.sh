#!/usr/bin/env bash
# Usage: tpu/create.sh
#
# Asks for the TPU slice of tpu/settings.sh as a queued resource and waits until it is READY. Where it
# is there already, says so; where it is asked for already, waits; where the request failed, or the
# slice was taken back, deletes what is left and asks anew. Ctrl-C ends the waiting only: the request
# stays in the queue.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
no_arguments "$@"

ask() {
  local flags=()
  [[ $JAXIR_TPU_SPOT == no ]] || flags+=(--spot)
  # shellcheck disable=SC2206  # split at spaces on purpose
  flags+=($JAXIR_TPU_CREATE_FLAGS)
  asked=$((asked + 1))
  say "asking for slice $JAXIR_TPU_NAME, a $kind in $JAXIR_TPU_ZONE"
  cloud queued-resources create "$JAXIR_TPU_NAME" --node-id="$JAXIR_TPU_NAME" \
    --accelerator-type="$accelerator" --runtime-version="$runtime" ${flags[@]+"${flags[@]}"} \
    >/dev/null && return
  unless_a_mistake
  fail 1 "$(message)"
}

remove() { # WHAT IS LEFT
  ((asked < 3)) || fail 1 "$1, for the third time while it came up; try again later or in another zone"
  say "$1; deleting it and asking anew"
  if [[ $request == GONE ]]; then delete_slice; else delete_request; fi
}

ready() {
  local type
  type=$(cat "$scratch/type")
  [[ -z $type || $type == "$accelerator" ]] ||
    fail 2 "slice $JAXIR_TPU_NAME is a $type, not a $accelerator; set JAXIR_TPU_TYPE=$type, another JAXIR_TPU_NAME, or tpu/delete.sh it"
  say "slice $JAXIR_TPU_NAME is READY"
  exit 0
}

asked=0 told='' told_at=0
while :; do
  request=$(state_of request)
  slice=-
  case $request in
    ACTIVE | GONE) slice=$(state_of slice) ;;
  esac
  case $request/$slice in
    */READY) ready ;;
    GONE/GONE)
      ask
      continue
      ;;
    */STOPPED)
      fail 1 "slice $JAXIR_TPU_NAME is STOPPED; start it with gcloud compute tpus tpu-vm start, or tpu/delete.sh it"
      ;;
    FAILED/*)
      if ((asked)); then
        reason=$(cloud queued-resources describe "$JAXIR_TPU_NAME" \
          '--format=value(state.failedData.error.message)') || reason=
        fail 1 "the request for slice $JAXIR_TPU_NAME failed: ${reason:-the cloud gives no reason}"
      fi
      remove "an earlier request for slice $JAXIR_TPU_NAME FAILED"
      continue
      ;;
    SUSPENDED/* | ACTIVE/GONE | */PREEMPTED | */TERMINATED)
      remove "slice $JAXIR_TPU_NAME was taken back (request $request, slice ${slice/#-/GONE})"
      continue
      ;;
    ACTIVE/*) what="the machines come up ($slice)" ;;
    GONE/*) what="slice $JAXIR_TPU_NAME, without a request, is $slice" ;;
    WAITING_FOR_RESOURCES/* | ACCEPTED/*)
      what="in the queue until a $kind is free in $JAXIR_TPU_ZONE ($request)"
      ;;
    CREATING/*) what="the request is being checked (CREATING)" ;;
    PROVISIONING/*) what="the machines come up (PROVISIONING)" ;;
    SUSPENDING/* | DELETING/*) what="an earlier slice $JAXIR_TPU_NAME is being removed ($request)" ;;
    *) what="the request is $request" ;;
  esac
  if [[ $what != "$told" ]] || ((SECONDS - told_at >= 600)); then
    say "waiting: $what$([[ $what != "$told" ]] || echo ", for $((SECONDS / 60)) min now")"
    told=$what told_at=$SECONDS
  fi
  if ((JAXIR_TPU_WAIT_LIMIT > 0 && SECONDS >= JAXIR_TPU_WAIT_LIMIT)); then
    fail 1 "gave up after $SECONDS s (JAXIR_TPU_WAIT_LIMIT): $what; the request stays: tpu/create.sh waits on, tpu/delete.sh ends it"
  fi
  sleep "$JAXIR_TPU_POLL"
done
