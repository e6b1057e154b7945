#!/usr/bin/env bash
# Usage: tpu/delete.sh [--yes]
#
# Deletes the queued resource and the slice, which ends a training that is running and all files on
# the workers; what lies in the bucket stays. Asks first, unless told --yes. A tpu/babysit.sh that is
# still running would create the slice anew: end that first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
[[ $# == 0 || $* == --yes ]] || fail 2 "$*: the only argument is --yes; see --help"

request=$(state_of request)
slice=$(state_of slice)
if [[ $request/$slice == GONE/GONE ]]; then
  say "slice $JAXIR_TPU_NAME: nothing to delete"
  exit 0
fi
if [[ ${1-} != --yes ]]; then
  [[ -t 0 ]] || fail 2 "nobody to ask: tpu/delete.sh --yes deletes without asking"
  read -r -p "Delete slice $JAXIR_TPU_NAME (request $request, slice $slice)? [y/N] " answer
  [[ $answer == [yY]* ]] || fail 1 "nothing was deleted"
fi
say "deleting slice $JAXIR_TPU_NAME; this takes minutes"
[[ $request == GONE ]] || delete_request
case $(state_of slice) in
  GONE | DELETING) ;;
  *) delete_slice ;;
esac
say "slice $JAXIR_TPU_NAME is deleted; checkpoints in ${JAXIR_TPU_BUCKET:-the bucket} stay"
