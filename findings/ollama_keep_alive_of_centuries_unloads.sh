#!/usr/bin/env bash
# Ollama 0.17.4: a `keep_alive` that is meant to be for ever, as a number of seconds above 9223372036 (292
# years, what a `time.Duration` holds), unloads the model at once: the product with 1e9 overflows into a
# negative duration, and only a negative *number* is taken for "for ever". The answer says
# `done_reason: "load"`. As text (`"2562048h"`) the same length is refused with 400.
#
# What helps is `-1`.
#
# Needs OLLAMA_BIN (the `ollama` program, on amd64) and OLLAMA_TEST_MODEL_GGUF (any small model).
#
# Output seen:
#   9223372036: loaded
#   9223372037: gone
#   1e10: gone
#   -1: loaded
set -euo pipefail
bin="${OLLAMA_BIN:?}" model="${OLLAMA_TEST_MODEL_GGUF:?}"
folder="$(mktemp -d)"
export HOME="$folder" OLLAMA_MODELS="$folder/models" OLLAMA_HOST="127.0.0.1:${PORT:-21175}"
"$bin" serve > "$folder/log" 2>&1 &
server=$!
trap 'kill $server; wait $server 2> /dev/null || true; rm -rf "$folder"' EXIT
until curl -fs "http://$OLLAMA_HOST/api/version" > /dev/null; do sleep 0.1; done
echo "FROM $model" > "$folder/Modelfile"
"$bin" create m -f "$folder/Modelfile" > /dev/null 2>&1
seen() {
    for keep_alive in 9223372036 9223372037 1e10 -1; do
        curl -fs "http://$OLLAMA_HOST/api/generate" -d "{\"model\":\"m\",\"keep_alive\":$keep_alive}" |
            grep -q '"done_reason":"load"'
        sleep 1
        case "$(curl -fs "http://$OLLAMA_HOST/api/ps")" in
        *'"m:latest"'*) echo "$keep_alive: loaded" ;;
        *) echo "$keep_alive: gone" ;;
        esac
    done
}
expected="9223372036: loaded
9223372037: gone
1e10: gone
-1: loaded"
output="$(seen)"
echo "$output"
[ "$output" = "$expected" ]
