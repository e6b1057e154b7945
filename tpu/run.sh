#!/usr/bin/env bash
# Usage: tpu/run.sh --config tpu_v4.py [--config.FIELD=VALUE ...] [--workdir DIR]
#        tpu/run.sh
#
# Starts python -m jaxir.train with these arguments and --distributed on all workers of the slice and
# shows the log of worker 0. Without --workdir the run is kept in BUCKET/runs/CONFIG, and the same
# command goes on with it. Where the training is already running, only shows its log; so does the
# second form. Ctrl-C and a lost connection end the showing, not the training.
#
# Exit status: the training's on worker 0 (0 finished, 2 a mistake in its arguments, 143 stopped and
# saved); 75 the slice is gone or does not answer; 130 Ctrl-C.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"

follower=

# shellcheck disable=SC2317  # called by traps
finish() {
  # the connection is a process group of its own (set -m below)
  [[ -z $follower ]] || kill -TERM -- "-$follower" 2>/dev/null || true
  rm -rf "$scratch"
}

# shellcheck disable=SC2317  # called by a trap
interrupted() {
  trap '' INT
  say "the log ends here; the training goes on"
  say "back to it: tpu/run.sh    how it is: tpu/status.sh    save and stop: tpu/stop.sh"
  exit 130
}

# Sets run, of a training that is running or newly started.
find_or_start() { # ARGUMENTS
  local status=0 packed='' state checksum installed
  if (($# > 0)); then
    read_arguments "$@"
    # one word that no shell on the way changes, whatever the arguments hold
    packed=$(printf '%s\0' "${arguments[@]}" | base64 | tr -d '\n')
  fi
  worker_states || status=$?
  ((status != 255)) || lost
  ((status != 127)) || fail 2 "slice $JAXIR_TPU_NAME: nothing is installed there; run tpu/setup.sh first"
  ((status == 0)) || fail 1 "the workers' state is unknown: $(message)"
  read -r _ run state _ checksum installed <"$scratch/states" || true
  if [[ $state == running ]]; then
    [[ -z $packed || $(printf %s "$packed" | cksum | cut -d' ' -f1) == "$checksum" ]] ||
      fail 2 "another training is running on slice $JAXIR_TPU_NAME (run $run); tpu/run.sh without arguments shows it, tpu/stop.sh stops it"
    say "already running: run $run; this is its log"
    return
  fi
  [[ -n $packed ]] || fail 2 "no training is running on slice $JAXIR_TPU_NAME; start one: tpu/run.sh --config NAME.py"
  if workers_that running >/dev/null; then
    say "worker $(workers_that running) still has an older run; ending it"
    on all "bash jaxir-tpu/worker.sh clear" || status=$?
    ((status == 0)) || lost
  fi
  [[ $installed == "$(identity)" ]] ||
    say "note: the workers have an older source or settings than here; tpu/setup.sh brings them the new"
  run=$(date -u +%Y%m%d-%H%M%S)-$$
  say "starting run $run on all workers; kept in $workdir"
  on all "bash jaxir-tpu/worker.sh start $run $packed" || status=$?
  ((status == 0)) || lost
}

# Shows the log of worker 0 until the training ends; sets status.
show() {
  local seen=0 first number line why failures=0
  status=
  mkfifo "$scratch/log"
  while :; do
    first=$seen
    # a process group of its own, so that Ctrl-C comes here first and no ssh stays behind
    set -m
    cloud tpu-vm ssh "$JAXIR_TPU_NAME" --worker=0 "${alive[@]/#/--ssh-flag=}" \
      --command="bash jaxir-tpu/worker.sh follow $run $seen" >"$scratch/log" &
    follower=$!
    set +m
    while IFS= read -r line; do
      case $line in
        end:*) status=${line#end:} ;;
        [0-9]*:*)
          # gcloud repeats a broken command by itself: then the same lines come again
          number=$((first + ${line%%:*}))
          if ((number > seen)); then
            printf '%s\n' "${line#*:}"
            seen=$number failures=0
          fi
          ;;
      esac
    done <"$scratch/log"
    wait "$follower" || true
    follower=
    [[ -z $status ]] || return 0
    failures=$((failures + 1))
    why=$(refusal)
    if [[ $(state_of slice) != READY ]] || ((failures >= JAXIR_TPU_TRIES)); then
      lost_because "$why"
    fi
    say "connection lost ($failures of $JAXIR_TPU_TRIES): $why"
    sleep "$JAXIR_TPU_PAUSE"
  done
}

# Tells how the training ended on the other workers, which end within moments of worker 0.
tell_others() {
  local try worker state status_there
  for ((try = 0; try < JAXIR_TPU_TRIES; try++)); do
    worker_states || return 0
    workers_that running "$run" >/dev/null || break
    sleep "$JAXIR_TPU_PAUSE"
  done
  while read -r worker _ state status_there _; do
    if [[ $state == running ]]; then
      say "warning: still running on worker $worker"
    elif [[ $status_there != "$status" && $status_there != 0 ]]; then
      say "warning: ended with $status_there on worker $worker: tpu/status.sh shows its last lines"
    fi
  done <"$scratch/states"
}

begin "$@"
workdir=
find_or_start "$@"
trap interrupted INT
show
tell_others
case $status in
  0) say "the training finished${workdir:+; its results: $workdir}" ;;
  143) say "the training was stopped by SIGTERM and has saved; the same command goes on" ;;
  lost) fail 75 "the training died with its machine; the same command goes on from the last checkpoint" ;;
  *) say "the training ended with status $status" ;;
esac
exit "$status"
