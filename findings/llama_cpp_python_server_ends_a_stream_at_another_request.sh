#!/usr/bin/env bash
# llama-cpp-python 0.3.36, server: it works on one request at a time, and any further request, even `GET /v1/models`, ends the
# stream of another client that is in progress. That stream gets no finish_reason and no error, but the usual
# `data: [DONE]`, so its client takes half an answer for the whole one. A health check by a list of models, as load
# balancers make it, does the same. With `--interrupt_requests false` the list of models waits for the end of the stream
# instead, so a health check with a time-out takes the server for dead.
#
# It compiles llama.cpp: about 15 minutes on 2 cores, unless pip has the wheel in its cache.
#
# Output seen:
#   alone: finish_reason length, 200 tokens
#   beside GET /v1/models: finish_reason None, fewer tokens, ends with [DONE]
#   not interrupted: finish_reason length, 200 tokens, the list came after the stream
set -euo pipefail
folder="$(mktemp -d)"
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "llama-cpp-python[server]==0.3.36" gguf==0.19.0 requests==2.34.2
cat > model.py <<'PY'
"""A llama of one layer with random weights and tokens that are bytes."""

import gguf
import numpy as np

WIDTH = 32
random = np.random.default_rng(1)
tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
model = gguf.GGUFWriter("model.gguf", "llama")
model.add_context_length(512)
model.add_embedding_length(WIDTH)
model.add_block_count(1)
model.add_feed_forward_length(WIDTH)
model.add_head_count(2)
model.add_rope_dimension_count(WIDTH // 2)
model.add_layer_norm_rms_eps(1e-5)
model.add_vocab_size(len(tokens))
model.add_tokenizer_model("llama")
model.add_token_list(tokens)
model.add_token_scores([0.0] * len(tokens))
model.add_token_types([2, 3, 3] + [6] * 256)
model.add_bos_token_id(1)
model.add_eos_token_id(2)
shapes = {"token_embd": len(tokens), "output": len(tokens)}
parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
shapes |= {f"blk.0.{part}": WIDTH for part in parts}
for name, rows in shapes.items():
    model.add_tensor(f"{name}.weight", random.standard_normal((rows, WIDTH)).astype(np.float32) * 0.1)
for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
    model.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
model.write_header_to_file()
model.write_kv_data_to_file()
model.write_tensors_to_file()
model.close()
PY
venv/bin/python model.py
serve() { # FLAGS..
    port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
    venv/bin/python -m llama_cpp.server --model model.gguf --n_ctx 512 --n_threads 1 --port "$port" "$@" > server.log 2>&1 &
    server=$!
}
cat > ask.py <<'PY'
import json
import sys
import threading
import time

import requests

url, name = f"http://127.0.0.1:{sys.argv[1]}/v1", sys.argv[2]
for _ in range(300):
    try:
        requests.get(f"{url}/models", timeout=5)
        break
    except requests.ConnectionError:
        time.sleep(0.1)
body = {"prompt": "hi", "max_tokens": 200, "temperature": 0, "logit_bias": {"2": -100}, "stream": True}
stream = requests.post(f"{url}/completions", json=body, stream=True, timeout=60)
listed = []


def list_models():
    requests.get(f"{url}/models", timeout=60)
    listed.append(time.monotonic())


lister = None
tokens, finish, ends = 0, None, ""
for line in stream.iter_lines(chunk_size=1):
    if not line.startswith(b"data: "):
        continue
    if line == b"data: [DONE]":
        ends = ", ends with [DONE]"
        break
    choice = json.loads(line[6:])["choices"][0]
    finish = choice["finish_reason"]
    tokens += finish is None
    if name != "alone" and lister is None:
        lister = threading.Thread(target=list_models)
        lister.start()
ended = time.monotonic()
number = "200 tokens" if tokens >= 200 else "fewer tokens"
if name == "alone":
    ends = ""
elif name == "not interrupted":
    lister.join()
    ends = ", the list came after the stream" if listed[0] >= ended - 0.05 else ", the list came before the end"
print(f"{name}: finish_reason {finish}, {number}{ends}")
PY
ask() { venv/bin/python ask.py "$port" "$1"; }
end() { kill "$server"; wait "$server" 2> /dev/null || true; server=; }
serve
seen="$(ask alone)
$(ask "beside GET /v1/models")"
end
serve --interrupt_requests false
seen="$seen
$(ask "not interrupted")"
end
expected="alone: finish_reason length, 200 tokens
beside GET /v1/models: finish_reason None, fewer tokens, ends with [DONE]
not interrupted: finish_reason length, 200 tokens, the list came after the stream"
echo "$seen"
[ "$seen" = "$expected" ]
