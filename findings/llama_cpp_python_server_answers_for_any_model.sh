#!/usr/bin/env bash
# llama-cpp-python 0.3.36, server: `GET /v1/models` lists one model, and a request for a model that is not in the list is
# answered by it with 200; `model` in the response is the name that the client asked for. So "the server has answered"
# does not show that it has the model, and nothing in the response shows which one has answered. A router has to
# compare with the list itself.
# The stream has no usage chunk although `stream_options.include_usage` asks for one; without streaming there is usage.
#
# It compiles llama.cpp: about 15 minutes on 2 cores, unless pip has the wheel in its cache.
#
# Output seen:
#   listed: present
#   asked for absent: 200, model absent
#   stream: usage in 0 chunks; whole: 3 output tokens
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
model.add_context_length(256)
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
port="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
venv/bin/python -m llama_cpp.server --model model.gguf --model_alias present --n_threads 1 --port "$port" > server.log 2>&1 &
server=$!
cat > ask.py <<'PY'
import json
import sys
import time

import requests

url = f"http://127.0.0.1:{sys.argv[1]}/v1"
for _ in range(300):
    try:
        models = requests.get(f"{url}/models", timeout=5).json()
        break
    except requests.ConnectionError:
        time.sleep(0.1)
print("listed:", *(row["id"] for row in models["data"]))
body = {"model": "absent", "prompt": "hi", "max_tokens": 3, "temperature": 0, "logit_bias": {"2": -100}}
whole = requests.post(f"{url}/completions", json=body, timeout=60)
print(f"asked for absent: {whole.status_code}, model {whole.json()['model']}")
options = {"stream": True, "stream_options": {"include_usage": True}}
stream = requests.post(f"{url}/completions", json=body | options, timeout=60).text
lines = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
with_usage = [line for line in lines if json.loads(line).get("usage")]
print(f"stream: usage in {len(with_usage)} chunks; whole: {whole.json()['usage']['completion_tokens']} output tokens")
PY
seen="$(venv/bin/python ask.py "$port")"
expected="listed: present
asked for absent: 200, model absent
stream: usage in 0 chunks; whole: 3 output tokens"
echo "$seen"
[ "$seen" = "$expected" ]
