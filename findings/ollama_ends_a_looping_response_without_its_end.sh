#!/usr/bin/env bash
# Ollama 0.17.4: when a model generates the same token more than 30 times in a row, the server stops it and ends the
# response with status 200, a clean last chunk, and no sign of it in any of its dialects:
#   - a native stream has no line with `done: true`, and so no counts; a whole native response says `done: false`
#   - a chat of `/v1` has neither a `finish_reason` nor `[DONE]`; a whole one has `finish_reason: null` and 0 tokens
#   - a stream of `/v1/messages` has no `message_stop`
# By its source, white space around tokens does not count. The log names the reason at debug level only. From 0.34.1 on the limit is 100, and such a response is an error 500 (pull request 18374 of Ollama).
#
# What helps is to ask for the last line, and not only for the end of the stream.
#
# Needs OLLAMA_BIN (the `ollama` program, on amd64) and OLLAMA_TEST_MODEL_GGUF (a model that repeats itself at temperature 0, as
# one of random weights does).
#
# Output seen:
#   /api/generate stream: 200, clean end, 0 lines with done
#   /api/generate whole: 200, "done":false
#   /v1/chat/completions stream: 200, clean end, 0 [DONE], 0 finish reasons
#   /v1/chat/completions whole: 200, "finish_reason":null, 0 tokens
#   /v1/messages stream: 200, clean end, 0 message_stop
set -euo pipefail
bin="${OLLAMA_BIN:?}" model="${OLLAMA_TEST_MODEL_GGUF:?}"
folder="$(mktemp -d)"
export HOME="$folder" OLLAMA_MODELS="$folder/models" OLLAMA_HOST="127.0.0.1:${PORT:-21176}"
"$bin" serve > "$folder/log" 2>&1 &
server=$!
trap 'kill $server; wait $server 2> /dev/null || true; rm -rf "$folder"' EXIT
until curl -fs "http://$OLLAMA_HOST/api/version" > /dev/null; do sleep 0.1; done
echo "FROM $model" > "$folder/Modelfile"
"$bin" create m -f "$folder/Modelfile" > /dev/null 2>&1
# PATH BODY: the response is in $folder/answer; prints the status, and fails if the end is not clean.
ask() { curl -fsN -o "$folder/answer" -w '%{http_code}' -H 'Content-Type: application/json' "http://$OLLAMA_HOST$1" -d "$2"; }
count() { grep -c -- "$1" "$folder/answer" || true; }
native='"model":"m","prompt":"Tell me","options":{"temperature":0,"num_predict":400}'
chat='"model":"m","messages":[{"role":"user","content":"Tell me"}],"temperature":0,"max_tokens":400'
seen() {
    status="$(ask /api/generate "{$native}")"
    echo "/api/generate stream: $status, clean end, $(count '"done":true') lines with done"
    status="$(ask /api/generate "{$native,\"stream\":false}")"
    echo "/api/generate whole: $status, $(grep -o '"done":[a-z]*' "$folder/answer")"
    status="$(ask /v1/chat/completions "{$chat,\"stream\":true}")"
    echo "/v1/chat/completions stream: $status, clean end, $(count '\[DONE\]') [DONE], $(count '"finish_reason":"') finish reasons"
    status="$(ask /v1/chat/completions "{$chat}")"
    echo "/v1/chat/completions whole: $status, $(grep -o '"finish_reason":[a-z"]*' "$folder/answer"), $(grep -o '"total_tokens":[0-9]*' "$folder/answer" | cut -d: -f2) tokens"
    status="$(ask /v1/messages "{$chat,\"stream\":true}")"
    echo "/v1/messages stream: $status, clean end, $(count message_stop) message_stop"
}
expected='/api/generate stream: 200, clean end, 0 lines with done
/api/generate whole: 200, "done":false
/v1/chat/completions stream: 200, clean end, 0 [DONE], 0 finish reasons
/v1/chat/completions whole: 200, "finish_reason":null, 0 tokens
/v1/messages stream: 200, clean end, 0 message_stop'
output="$(seen)"
echo "$output"
[ "$output" = "$expected" ]
