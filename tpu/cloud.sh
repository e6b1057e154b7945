#!/usr/bin/env bash
# What the scripts in tpu/ share: messages, calls of gcloud, and what runs on the workers. Sourced by
# them; nothing to run. Exit statuses of all scripts: 0 done; 2 a mistake in what they were told; 75
# the slice is gone or does not answer; 1 otherwise.
# shellcheck disable=SC2034  # some of the variables are for the scripts that source this file
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=settings.sh
. "$here/settings.sh"

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

fail() { # STATUS MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

# Prints the comment at the head of the script where help is asked for, then checks the settings.
begin() { # ARGUMENTS
  local argument
  for argument; do
    if [[ $argument == --help || $argument == -h ]]; then
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit 0
    fi
  done
  check_settings
  command -v gcloud >/dev/null ||
    fail 2 "gcloud: not found on PATH; install it from https://cloud.google.com/sdk/docs/install"
  scratch=$(mktemp -d)
  trap finish EXIT
}

finish() { rm -rf "$scratch"; }

no_arguments() { [[ $# == 0 ]] || fail 2 "$1: takes no such argument; see --help"; }

mend() { echo "set it in tpu/settings.sh or by export $1=$2"; }

check_settings() {
  local setting
  [[ -n $JAXIR_TPU_PROJECT ]] ||
    fail 2 "JAXIR_TPU_PROJECT is missing: the Google Cloud project; $(mend JAXIR_TPU_PROJECT PROJECT)"
  [[ -z $JAXIR_TPU_BUCKET || $JAXIR_TPU_BUCKET == gs://?* ]] ||
    fail 2 "JAXIR_TPU_BUCKET=$JAXIR_TPU_BUCKET: not a bucket; $(mend JAXIR_TPU_BUCKET gs://BUCKET)"
  [[ $JAXIR_TPU_NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    fail 2 "JAXIR_TPU_NAME=$JAXIR_TPU_NAME: small letters, digits and - only; $(mend JAXIR_TPU_NAME jaxir)"
  [[ $JAXIR_TPU_SPOT == yes || $JAXIR_TPU_SPOT == no ]] ||
    fail 2 "JAXIR_TPU_SPOT=$JAXIR_TPU_SPOT: neither yes nor no; $(mend JAXIR_TPU_SPOT yes)"
  for setting in POLL WAIT_LIMIT TRIES PAUSE STOP_LIMIT ATTEMPTS BACKOFF BACKOFF_LIMIT; do
    setting=JAXIR_TPU_$setting
    [[ ${!setting} =~ ^[0-9]+$ ]] ||
      fail 2 "$setting=${!setting}: not a whole number; $(mend "$setting" 30)"
  done
  [[ $JAXIR_TPU_TYPE =~ ^(v4|v5e|v5litepod|v5p|v6e)-[0-9]+$ ]] ||
    fail 2 "JAXIR_TPU_TYPE=$JAXIR_TPU_TYPE: unknown; one of v4-N, v5e-N (v5litepod-N), v5p-N, v6e-N"
  # v5e is what the chip is called, v5litepod what gcloud calls it
  accelerator=${JAXIR_TPU_TYPE/#v5e-/v5litepod-}
  case $accelerator in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
  esac
  runtime=${JAXIR_TPU_RUNTIME:-$runtime}
  case $JAXIR_TPU_SPOT in
    yes) kind="spot $JAXIR_TPU_TYPE" ;;
    no) kind="on-demand $JAXIR_TPU_TYPE" ;;
  esac
  [[ -z $JAXIR_TPU_SECRETS ]] || check_secrets
}

check_secrets() {
  local line number=0
  [[ -r $JAXIR_TPU_SECRETS ]] ||
    fail 2 "JAXIR_TPU_SECRETS=$JAXIR_TPU_SECRETS: no such file; $(mend JAXIR_TPU_SECRETS FILE)"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    # the line itself is a secret, so it is not shown
    [[ -z $line || $line == '#'* || $line =~ ^[A-Za-z_][A-Za-z0-9_]*=[^\"\'] ]] ||
      fail 2 "JAXIR_TPU_SECRETS=$JAXIR_TPU_SECRETS, line $number: not NAME=value without quotes"
  done <"$JAXIR_TPU_SECRETS"
}

# ---- gcloud --------------------------------------------------------------------------------------

# What gcloud says beside its answer goes to a file: it is noise, unless the call fails.
cloud() {
  gcloud compute tpus "$@" --project="$JAXIR_TPU_PROJECT" --zone="$JAXIR_TPU_ZONE" --quiet \
    </dev/null 2>"$scratch/errors"
}

# The error of the last call in one line, without gcloud's lists of details.
message() {
  local text
  text=$(sed -n '/^ERROR:/,$p' "$scratch/errors" | sed '/^- /,$d')
  [[ -n $text ]] || text=$(tail -n 1 "$scratch/errors")
  printf '%s' "$text" | tr -s ' \n\t' ' ' |
    sed 's/^ERROR: ([^)]*) *//; s/ This command is authenticated as .*//' | cut -c 1-600
}

# Ends where the last call failed for a reason that waiting does not mend.
unless_a_mistake() {
  ! grep -qE 'gcloud auth login|SSH Key is not present|PERMISSION_DENIED|INVALID_ARGUMENT' \
    "$scratch/errors" || fail 2 "$(message)"
}

# Why a connection failed: what ssh said, rather than gcloud about ssh.
refusal() {
  grep -aE 'Connection|Permission denied|timed out|No route' "$scratch/errors" | tail -n 1 |
    tr -d '\r' | grep . || message
}

# State of the queued resource (request) or of the slice, whose type goes to $scratch/type; GONE where
# there is none.
state_of() { # request|slice
  local try answer question state type
  case $1 in
    request) question=(queued-resources describe "$JAXIR_TPU_NAME" '--format=value(state.state)') ;;
    slice) question=(tpu-vm describe "$JAXIR_TPU_NAME" '--format=value(state,acceleratorType)') ;;
  esac
  for ((try = 1; ; try++)); do
    if answer=$(cloud "${question[@]}"); then
      # two values come with a tab between them
      read -r state type <<<"$answer" || true
      echo "${type##*/}" >"$scratch/type"
      echo "${state:-UNKNOWN}"
      return
    fi
    if grep -q NOT_FOUND "$scratch/errors"; then
      echo GONE
      return
    fi
    unless_a_mistake
    ((try < JAXIR_TPU_TRIES)) || fail 1 "$(message)"
    say "gcloud does not answer ($try of $JAXIR_TPU_TRIES): $(message)"
    sleep "$JAXIR_TPU_PAUSE"
  done
}

delete_request() {
  cloud queued-resources delete "$JAXIR_TPU_NAME" --force >/dev/null ||
    grep -q NOT_FOUND "$scratch/errors" || fail 1 "$(message)"
}

delete_slice() {
  cloud tpu-vm delete "$JAXIR_TPU_NAME" >/dev/null ||
    grep -q NOT_FOUND "$scratch/errors" || fail 1 "$(message)"
}

# ---- workers -------------------------------------------------------------------------------------

# Without these a connection to a machine that has vanished would hang for ever.
alive=(-oServerAliveInterval=20 -oServerAliveCountMax=3 -oConnectTimeout=30)

# Repeats ssh or scp while the machines refuse, as they do when they come up. What it prints goes to
# $scratch/answer. Returns the status of what ran there; 255 where nothing got through.
patiently() { # COMMAND OF cloud
  local try status
  for ((try = 1; ; try++)); do
    status=0
    cloud "$@" >"$scratch/answer" || status=$?
    ((status != 0)) || return 0
    if ((status != 255)) && ! grep -q '^ERROR: (gcloud' "$scratch/errors"; then
      return "$status"
    fi
    unless_a_mistake
    ! grep -qE 'NOT_FOUND|so it cannot be' "$scratch/errors" || return 255
    ((try < JAXIR_TPU_TRIES)) || return 255
    say "no connection to slice $JAXIR_TPU_NAME yet ($try of $JAXIR_TPU_TRIES): $(refusal)"
    sleep "$JAXIR_TPU_PAUSE"
  done
}

on() { # WORKER|all COMMAND
  patiently tpu-vm ssh "$JAXIR_TPU_NAME" --worker="$1" "${alive[@]/#/--ssh-flag=}" --command="$2"
}

copy_to_all() { # FILES FOLDER
  patiently tpu-vm scp "${@:1:$#-1}" "$JAXIR_TPU_NAME:${*: -1}" --worker=all \
    "${alive[@]/#/--scp-flag=}"
}

# Ends where the workers cannot be reached.
lost() {
  lost_because "$(refusal)"
}

lost_because() { # WHY
  local state
  state=$(state_of slice)
  if [[ $state == READY ]]; then
    fail 75 "slice $JAXIR_TPU_NAME is READY but gives no connection: $1"
  fi
  fail 75 "slice $JAXIR_TPU_NAME is $state; tpu/create.sh asks for it anew, tpu/babysit.sh does so by itself"
}

# The workers' state lines, worker 0 first, in $scratch/states: worker, run, state, status, checksum
# of the arguments, identity of what is installed. Returns 127 where setup.sh never ran.
worker_states() {
  local status=0
  on all "bash jaxir-tpu/worker.sh state" || status=$?
  sed -n 's/^jaxir-tpu //p' "$scratch/answer" | sort -n >"$scratch/states"
  return "$status"
}

# Whether a worker's line has this state; prints the numbers of those that do.
workers_that() { # STATE [RUN]
  awk -v state="$1" -v run="${2-}" \
    '$3 == state && (run == "" || $2 == run) { printf "%s%s", sep, $1; sep = ", " }
     END { exit sep == "" }' "$scratch/states"
}

# ---- source --------------------------------------------------------------------------------------

# Files of the checkout: tracked ones as they are now, and new Python files, such as a config.
source_files() {
  local file
  {
    # names with letters beyond ASCII as they are
    git -C "$JAXIR_TPU_SOURCE" -c core.quotePath=false ls-files
    git -C "$JAXIR_TPU_SOURCE" -c core.quotePath=false ls-files --others --exclude-standard -- '*.py'
  } | while IFS= read -r file; do
    [[ ! -f $JAXIR_TPU_SOURCE/$file ]] || printf '%s\n' "$file"
  done
}

source_is_folder() {
  if [[ -d $JAXIR_TPU_SOURCE ]]; then
    git -C "$JAXIR_TPU_SOURCE" ls-files --error-unmatch pyproject.toml >/dev/null 2>&1 ||
      fail 2 "JAXIR_TPU_SOURCE=$JAXIR_TPU_SOURCE: no git checkout of jaxir; $(mend JAXIR_TPU_SOURCE '"jaxir[tpu]"')"
    return 0
  fi
  case $JAXIR_TPU_SOURCE in
    /* | ./* | ../* | '~'*)
      fail 2 "JAXIR_TPU_SOURCE=$JAXIR_TPU_SOURCE: no such folder; $(mend JAXIR_TPU_SOURCE '"jaxir[tpu]"')"
      ;;
  esac
  return 1
}

# One hash of all that setup.sh brings to a worker. Leaves the checkout's files in $scratch/files.
identity() {
  {
    cat "$here/worker.sh"
    [[ -z $JAXIR_TPU_SECRETS ]] || cat "$JAXIR_TPU_SECRETS"
    if source_is_folder; then
      echo "$JAXIR_TPU_EXTRAS"
      source_files | tee "$scratch/files"
      git -C "$JAXIR_TPU_SOURCE" hash-object --no-filters --stdin-paths <"$scratch/files"
    else
      echo "$JAXIR_TPU_SOURCE"
    fi
  } | git hash-object --stdin
}

# ---- training ------------------------------------------------------------------------------------

# Sets arguments (of jaxir.train), and workdir and checkpoints (folders), from a command line.
read_arguments() { # ARGUMENTS
  local argument previous='' config='' directory=''
  workdir=
  for argument; do
    case $previous in
      --config | -config) config=$argument ;;
      --workdir | -workdir) workdir=$argument ;;
      --config.checkpoint.directory) directory=$argument ;;
    esac
    case $argument in
      --config=* | -config=*) config=${argument#*=} ;;
      --workdir=* | -workdir=*) workdir=${argument#*=} ;;
      --config.checkpoint.directory=*) directory=${argument#*=} ;;
    esac
    previous=$argument
  done
  [[ -n $config ]] || fail 2 "--config is missing: name a config, e.g. --config tpu_v4.py"
  arguments=("$@" --distributed)
  if [[ -z $workdir ]]; then
    [[ -n $JAXIR_TPU_BUCKET ]] ||
      fail 2 "JAXIR_TPU_BUCKET is missing: where runs are kept; $(mend JAXIR_TPU_BUCKET gs://BUCKET)"
    config=${config##*/}
    workdir=${JAXIR_TPU_BUCKET%/}/runs/${JAXIR_TPU_RUN:-${config%.py}}
    arguments+=(--workdir "$workdir")
  fi
  checkpoints=$workdir/checkpoints
  [[ -z $directory ]] || checkpoints=${directory%/}/${workdir##*/}
}
