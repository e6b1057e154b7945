#!/usr/bin/env bash
# The settings of all scripts in tpu/. Edit them here, or set the environment variable of that name,
# which wins. Sourced by the scripts; nothing to run.
# shellcheck disable=SC2034  # read by the scripts that source this file
set -euo pipefail

: "${JAXIR_TPU_PROJECT:=}"            # the Google Cloud project; needed
: "${JAXIR_TPU_ZONE:=us-central2-b}"  # a zone that has the type, and quota for it
: "${JAXIR_TPU_TYPE:=v4-32}"          # v4-N, v5e-N (also v5litepod-N), v5p-N or v6e-N
: "${JAXIR_TPU_NAME:=jaxir}"          # name of the slice and of its queued resource
: "${JAXIR_TPU_SPOT:=yes}"            # yes: spot, cheap and taken back at any time; no: on demand
: "${JAXIR_TPU_BUCKET:=}"             # gs://BUCKET or gs://BUCKET/FOLDER; runs lie in its runs/

# What to install: a folder with a git checkout of jaxir, or a pip requirement, used as it is, such as
# "jaxir[tpu]==0.1.0". Of a checkout, the tracked files as they are now and new *.py files are copied.
: "${JAXIR_TPU_SOURCE:=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
: "${JAXIR_TPU_EXTRAS:=tpu}"          # extras of a checkout, e.g. tpu,wandb

# A file of lines NAME=value (WANDB_API_KEY=..., HF_TOKEN=...), the environment of the training. It
# is copied to the workers as a file that only its owner reads.
: "${JAXIR_TPU_SECRETS:=}"

: "${JAXIR_TPU_RUN:=}"                # name of the run; default: the config's, tpu_v4 of tpu_v4.py
: "${JAXIR_TPU_RUNTIME:=}"            # runtime version; default: the one that goes with the type
: "${JAXIR_TPU_CREATE_FLAGS:=}"       # more flags of queued-resources create, split at spaces

# Limits, in whole seconds where no other unit is named
: "${JAXIR_TPU_POLL:=30}"             # between two looks at the state of the slice
: "${JAXIR_TPU_WAIT_LIMIT:=86400}"    # how long create.sh waits for the slice; 0: for ever
: "${JAXIR_TPU_TRIES:=10}"            # attempts at ssh, scp or a question, before giving up
: "${JAXIR_TPU_PAUSE:=15}"            # between two of these
: "${JAXIR_TPU_STOP_LIMIT:=600}"      # how long stop.sh waits for the training to save and end
: "${JAXIR_TPU_ATTEMPTS:=5}"          # attempts of babysit.sh that leave no new checkpoint
: "${JAXIR_TPU_BACKOFF:=30}"          # its first pause; each next one is twice as long,
: "${JAXIR_TPU_BACKOFF_LIMIT:=1800}"  # up to this
