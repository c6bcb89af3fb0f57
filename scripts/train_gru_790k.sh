#!/usr/bin/env bash
# Train the recipe gru-790k; flags and environment as in train.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" gru-790k "$@"
