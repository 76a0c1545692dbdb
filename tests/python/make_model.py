"""Writes a two-layer `llama` model with random weights and byte tokens, about half a megabyte.

The answers are nonsense, but the server that serves them, the tokens it streams and the log-probabilities
it computes are real, which is all that the wire can show.

Usage: make_model.py FILE.gguf
"""

import sys
from pathlib import Path

import gguf
import numpy as np

CONTEXT = 4096
EMBEDDING = 64
FEED_FORWARD = 128
HEADS = 4
LAYERS = 2

# One printable character a token, as a byte-level tokenizer gives for text it never learned, so that the
# number of answer bytes a token takes is the same on every run.
CONTROL_TOKENS = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
BYTE_TOKENS = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
LETTER_TOKENS = [(chr(code), gguf.TokenType.NORMAL) for code in range(0x21, 0x7F)]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write(path: Path) -> None:
    """Writes the model to `path`, the same bytes every time."""
    tokens = CONTROL_TOKENS + BYTE_TOKENS + LETTER_TOKENS
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("hydrometer-test")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(tokens))

    writer.add_tokenizer_model("llama")
    writer.add_token_list([text.encode() for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    random = np.random.default_rng(seed=7)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0.0, 0.05, shape).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, dtype=np.float32))

    add("token_embd.weight", len(tokens), EMBEDDING)
    add("output.weight", len(tokens), EMBEDDING)
    add_norm("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        add_norm(f"{block}.attn_norm.weight")
        for projection in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{projection}.weight", EMBEDDING, EMBEDDING)
        add_norm(f"{block}.ffn_norm.weight")
        add(f"{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        add(f"{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        add(f"{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
