#!/bin/sh
# Call a running service with curl, and print its JSON answers:
#
#     sh examples/client.sh [URL] [CONTEXT.npy]
#
# The environment variable NEXTVEC_TOKEN is the token of a service that requires one.
set -eu
url=${1:-http://127.0.0.1:8000}

# The token goes through a pipe, because other users can read the arguments of a process.
call() {
    printf 'Authorization: Bearer %s\n' "${NEXTVEC_TOKEN:-}" |
        curl --silent --show-error --fail-with-body --header @- "$@"
    echo
}

json='Content-Type: application/json'
call "$url/v1/model"

# Texts: the chunks of a document, the oldest first. A whole text is {"text": "…"}, with blank lines between its chunks.
texts='["The harbor was built where the river is deep.", "Ships of any size can enter at every tide."]'
call "$url/v1/next" --header "$json" --data "{\"texts\": $texts, \"k\": 3}"
call "$url/v1/generate" --header "$json" --data "{\"texts\": $texts, \"steps\": 2}"
call "$url/v1/score" --header "$json" --data "{\"texts\": $texts}"

# Vectors: a .npy file of one context (S, D) or of several (N, S, D) is smaller than JSON and faster to read.
if [ $# -ge 2 ]; then
    call "$url/v1/predict" --header 'Content-Type: application/octet-stream' --data-binary "@$2"
fi
