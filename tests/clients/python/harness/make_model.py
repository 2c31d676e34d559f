"""Write a GGUF model with random weights and a vocabulary of bytes and a few words.

It speaks nonsense, the same nonsense at temperature 0, and is small enough for any machine.

With `mean`, llama.cpp gives one embedding for a text and not one for each token; Ollama does so without it, and
takes such a model for one that has embeddings alone.

usage: make_model.py OUT WIDTH LAYERS SEED [mean]
"""

import sys

import gguf
import numpy as np

WORDS = "the a of and to in tower llama gate way model route layer stream token fast".split() + [" "]
CONTEXT = 2048
UNKNOWN, BEGIN, END = 0, 1, 2
NORMAL, UNKNOWN_TOKEN, CONTROL, BYTE = 1, 2, 3, 6


def vocabulary(writer: gguf.GGUFWriter) -> tuple[int, int]:
    """Write the tokens; how many there are, and which is the first word."""
    special = [b"<unk>", b"<s>", b"</s>"]
    single_bytes = [f"<0x{value:02X}>".encode() for value in range(256)]
    words = [("\u2581" + word).encode() for word in WORDS] + [word.encode() for word in WORDS]
    first_word = len(special) + len(single_bytes)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(special + single_bytes + words)
    writer.add_token_scores([0.0] * first_word + [-float(rank) for rank in range(len(words))])
    writer.add_token_types([UNKNOWN_TOKEN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words))
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    return first_word + len(words), first_word


def main(out: str, width: int, layers: int, seed: int, pooling: str = "") -> None:
    random = np.random.default_rng(seed)
    hidden = width * 2
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_rope_dimension_count(width // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    if pooling == "mean":
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    tokens, first_word = vocabulary(writer)
    writer.add_vocab_size(tokens)

    def noise(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)

    # The first component of every embedding is large and goes through all layers unchanged: with
    # it the head makes each word far likelier than a byte or the end token. The rest of the head
    # is small, so that words differ: Ollama ends an answer that says one word thirty times over.
    embedding = noise(tokens, width)
    embedding[:, 0] = 0.02 * np.sqrt(width)
    head = np.zeros((tokens, width), np.float32)
    head[first_word:] = random.standard_normal((tokens - first_word, width)) * 2 / np.sqrt(width)
    head[first_word:, 0] = 24 / np.sqrt(width)
    ones = np.ones(width, np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", head)
    for layer in range(layers):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", ones)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{part}.weight", noise(width, width))
        for part in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}{part}.weight", noise(hidden, width))
        writer.add_tensor(f"{block}ffn_down.weight", noise(width, hidden))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
