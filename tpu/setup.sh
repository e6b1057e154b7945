#!/usr/bin/env bash
# Usage: tpu/setup.sh
#
# Installs on all workers of the slice what the training needs: uv, Python 3.12 and jaxir with its
# extras, from the checkout or the pip requirement in JAXIR_TPU_SOURCE, and the file of secrets. Does
# nothing where the same is installed already; refuses while training is running.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=cloud.sh
. "$(dirname "${BASH_SOURCE[0]}")/cloud.sh"
begin "$@"
no_arguments "$@"

pack() { # FOLDER
  cp "$here/worker.sh" "$1/worker.sh"
  echo "$identity" >"$1/identity"
  if source_is_folder; then
    echo "$JAXIR_TPU_EXTRAS" >"$1/extras"
    # macOS would add files of its own
    COPYFILE_DISABLE=1 tar -czf "$1/source.tar.gz" -C "$JAXIR_TPU_SOURCE" -T "$scratch/files"
  else
    echo "$JAXIR_TPU_SOURCE" >"$1/requirement"
  fi
  [[ -z $JAXIR_TPU_SECRETS ]] || (umask 077 && cat "$JAXIR_TPU_SECRETS" >"$1/secrets")
}

# each worker says what it has, and makes an empty folder that only its owner reads
prepare='umask 077; cat jaxir-tpu/installed 2>/dev/null || echo nothing
rm -rf jaxir-tpu/incoming; mkdir -p jaxir-tpu/incoming'

identity=$(identity)
status=0
on all "$prepare" || status=$?
((status != 255)) || lost
((status == 0)) || fail 1 "preparing the workers failed: $(message)"
if [[ $(sort -u "$scratch/answer") == "$identity" ]]; then
  say "slice $JAXIR_TPU_NAME: all workers have this source and these settings already"
  exit 0
fi

mkdir "$scratch/bundle"
pack "$scratch/bundle"
say "copying the source to all workers of slice $JAXIR_TPU_NAME"
copy_to_all "$scratch"/bundle/* jaxir-tpu/incoming/ || status=$?
((status != 255)) || lost
((status == 0)) || fail 1 "copying to the workers failed: $(message)"

say "installing; the first time this takes minutes"
on all "bash jaxir-tpu/incoming/worker.sh install" || status=$?
((status != 255)) || lost
while IFS= read -r line; do say "$line"; done < <(sort -s -n -k 2 "$scratch/answer")
((status == 0)) || fail 1 "slice $JAXIR_TPU_NAME: not installed on all workers (see above)"
say "slice $JAXIR_TPU_NAME: installed on all workers"
