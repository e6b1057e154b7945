#!/usr/bin/env bash
# What runs on each worker of a slice. setup.sh copies this file there, into ~/jaxir-tpu; the other
# scripts call it over ssh:
#   worker.sh install              install what setup.sh has copied to ~/jaxir-tpu/incoming
#   worker.sh state                one line for the other scripts (worker_states in cloud.sh)
#   worker.sh report LINES         the same for people, with the last lines of the log
#   worker.sh start RUN ARGUMENTS  start the training; ARGUMENTS: base64, each ends in a zero byte
#   worker.sh follow RUN LINES     the log after so many lines, each numbered, then end:STATUS
#   worker.sh stop                 SIGTERM: the training saves and ends
#   worker.sh clear                end what is left of an old run, by force if need be
set -euo pipefail
umask 077
home=$HOME/jaxir-tpu
cd "$home"

# the hosts of a slice are called t1v-n-...-w-0, -w-1, ...
worker=${HOSTNAME##*-w-}

say() { printf 'worker %s: %s\n' "$worker" "$*"; }

# Sets born: clock ticks from the machine's start to the process's, which tell it from a later process
# of the same number.
birth() { # PID
  local fields=
  { read -r fields <"/proc/$1/stat"; } 2>/dev/null || true
  # what follows the program's name, which may hold spaces
  read -r -a fields <<<"${fields##*) }"
  born=${fields[19]-}
}

# Sets pid.
running() { # RUN
  local birthday born
  { read -r pid birthday _ <"runs/$1/process"; } 2>/dev/null || return 1
  birth "$pid"
  [[ -n $birthday && $born == "$birthday" ]]
}

# The shell that started a process writes down its status, unless the machine was restarted.
wait_for_status() {
  local shell birthday born
  { read -r _ _ shell birthday <"runs/$run/process"; } 2>/dev/null || return 0
  while [[ ! -e runs/$run/status ]]; do
    birth "$shell"
    [[ -n $birthday && $born == "$birthday" ]] || break
    sleep 0.1
  done
}

# Sets run, state (none, running, ended, stopped: by stop.sh, lost: died with its machine), status.
look() {
  run=- state=none status=-
  [[ -e current ]] || return 0
  read -r run <current
  if running "$run"; then
    state=running
    return
  fi
  wait_for_status
  [[ ! -e runs/$run/status ]] || read -r status <"runs/$run/status"
  if [[ -e runs/$run/stop ]]; then
    state=stopped
  elif [[ $status != - ]]; then
    state=ended
  else
    state=lost
  fi
}

install() {
  local uv what
  look
  if [[ -e installed ]] && cmp -s incoming/identity installed; then
    say "already installed"
    rm -f incoming/secrets
    return
  fi
  if [[ $state == running ]]; then
    say "training is running, so nothing was installed; tpu/stop.sh ends it"
    rm -f incoming/secrets
    return 3
  fi
  rm -f installed
  if [[ -e incoming/source.tar.gz ]]; then
    rm -rf source.new
    mkdir source.new
    tar -xzf incoming/source.tar.gz -C source.new
    rm -rf source
    mv source.new source
    what=(-e "$home/source[$(cat incoming/extras)]")
  else
    rm -rf source
    what=("$(cat incoming/requirement)")
  fi
  # chained, since set -e does not hold left of ||
  {
    uv=$(command -v uv || echo "$HOME/.local/bin/uv")
    { [[ -x $uv ]] || curl -LsSf https://astral.sh/uv/install.sh | sh; } &&
      # the images carry an older Python; uv brings its own
      { [[ -x env/bin/python ]] || "$uv" venv --python 3.12 env; } &&
      "$uv" pip install --python env/bin/python "${what[@]}"
  } >setup.log 2>&1 </dev/null || {
    tail -n 15 setup.log | while IFS= read -r line; do say "| $line"; done
    say "the installation failed; all of its output: ~/jaxir-tpu/setup.log"
    return 1
  }
  rm -f secrets
  [[ ! -e incoming/secrets ]] || { mv incoming/secrets secrets && chmod 600 secrets; }
  # a new file, since this one may be running
  cp incoming/worker.sh worker.sh.new
  mv worker.sh.new worker.sh
  # incoming stays: where another worker's connection fails, this command is repeated on all
  cp incoming/identity installed
  say "installed in $SECONDS s"
}

start() { # RUN ARGUMENTS
  # two connections may ask for the same run, where the first seemed lost
  exec 8>lock
  flock 8
  if [[ -d runs/$1 ]]; then
    say "already started"
    return
  fi
  mkdir -p "runs/$1"
  printf '%s' "$2" >"runs/$1/arguments"
  : >"runs/$1/log"
  # a session of its own outlives the connection
  setsid bash "$home/worker.sh" train "$1" >>"runs/$1/log" 2>&1 </dev/null 8>&- &
  for _ in {1..200}; do
    [[ ! -e runs/$1/process ]] || break
    sleep 0.1
  done
  echo "$1" >current
  say "started"
}

train() { # RUN
  local arguments pid born own status=1 line
  mapfile -d '' -t arguments < <(base64 -d <"runs/$1/arguments")
  if [[ -e secrets ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      # shellcheck disable=SC2163  # the line is NAME=value
      [[ $line != [A-Za-z_]*=* ]] || export "$line"
    done <secrets
  fi
  # signals are for the training; this shell stays to write down how it ended
  trap : HUP INT TERM
  cd "$home/source" 2>/dev/null || cd "$home"
  PYTHONUNBUFFERED=1 "$home/env/bin/python" -m jaxir.train "${arguments[@]}" &
  pid=$!
  cd "$home"
  birth $$
  own=$born
  birth "$pid"
  echo "$pid $born $$ $own" >"runs/$1/process.new"
  mv "runs/$1/process.new" "runs/$1/process"
  while :; do
    wait "$pid" && status=0 || status=$?
    # wait also returns where a signal came
    kill -0 "$pid" 2>/dev/null || break
  done
  echo "$status" >"runs/$1/status.new"
  mv "runs/$1/status.new" "runs/$1/status"
}

follow() { # RUN LINES
  local run=$1 pid tail=(tail -n "+$(($2 + 1))")
  ! running "$run" || tail+=(-f -s 0.2 --pid="$pid")
  # numbers let the other end leave out lines that came before a connection was lost
  "${tail[@]}" "runs/$run/log" | LC_ALL=C grep -an --line-buffered '' || true
  # no end line: the other end asks again
  ! running "$run" || return 1
  wait_for_status
  echo "end:$(cat "runs/$run/status" 2>/dev/null || echo lost)"
}

case ${1-} in
  install) install ;;
  start) start "$2" "$3" ;;
  train) train "$2" ;;
  follow) follow "$2" "$3" ;;
  state)
    look
    checksum=- identity=-
    [[ $run == - ]] || read -r checksum _ < <(cksum <"runs/$run/arguments")
    [[ ! -e installed ]] || read -r identity <installed
    echo "jaxir-tpu $worker $run $state $status $checksum $identity"
    ;;
  report)
    look
    case $state in
      none) say "no training was started here" ;;
      running) say "run $run is running" ;;
      ended) say "run $run ended with status $status" ;;
      stopped) say "run $run was stopped, with status $status" ;;
      lost) say "run $run is gone; its machine was restarted" ;;
    esac
    [[ $run == - ]] || tail -n "$2" "runs/$run/log" | while IFS= read -r line || [[ -n $line ]]; do
      say "| $line"
    done
    ;;
  stop)
    look
    if [[ $state == running ]]; then
      touch "runs/$run/stop"
      kill -TERM "$pid"
      say "SIGTERM sent to run $run"
    else
      say "no training is running"
    fi
    ;;
  clear)
    look
    [[ $state == running ]] || exit 0
    kill -TERM "$pid"
    for _ in {1..300}; do
      running "$run" || break
      sleep 0.1
    done
    ! running "$run" || kill -KILL "$pid"
    say "ended what was left of run $run"
    ;;
  *)
    echo "error: worker.sh ${1-}: no such command" >&2
    exit 2
    ;;
esac
