"""Small numbers for the names that configurations share, and for what several families have."""

from __future__ import annotations

from typing import Any

VOCABULARY = 260
WINDOW = 16

WIDTH, LAYERS, HEADS, KV, HEAD = 32, 4, 4, 2, 8

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "hidden_size": WIDTH,
    "d_model": WIDTH,
    "n_embd": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "decoder_layers": LAYERS,
    # The cache of a decoder alone is made with the number of layers of the encoder.
    "encoder_layers": LAYERS,
    "num_attention_heads": HEADS,
    "n_head": HEADS,
    "n_heads": HEADS,
    "num_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_attention_heads": HEADS,
    "attention_heads": HEADS,
    "num_key_value_heads": KV,
    "head_dim": HEAD,
    "d_kv": HEAD,
    "d_ff": 48,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "n_inner": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "max_position_embeddings": 256,
    "max_target_positions": 256,
    "n_positions": 256,
    "n_ctx": 256,
    "context_length": 256,
    "max_seq_len": 256,
    "sliding_window": WINDOW,
    "chunk_size": WINDOW,
    "mamba_chunk_size": WINDOW,
    "mamba_n_heads": 8,
    "mamba_d_state": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "qk_head_dim": 16,
    "index_topk": WINDOW,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "first_k_dense_replace": 1,
    "embedding_size": 16,
    "is_decoder": True,
}

SLIDING_FULL = ["sliding_attention", "full_attention"] * 2
LINEAR_FULL = ["linear_attention", "full_attention"] * 2

# Latent attention makes one key and one value for each query head.
LATENT = {"num_key_value_heads": HEADS}
GROUPS = {"n_group": 2, "topk_group": 1}
GRANITE = {
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.25,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
MROPE = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "mrope_section": [2, 1, 1],
    "mrope_interleaved": True,
}
LINEAR_HYBRID = ["linear_attention", "hybrid"] * 2
HALF_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
QWEN_HYBRID = {"head_dim": 16, "layer_types": LINEAR_FULL}
QWEN3_5 = {**QWEN_HYBRID, "rope_parameters": MROPE}
QWEN4_EXP = {
    "head_dim": 16,
    "layer_types": ["linear_attention", "indexed_attention"] * 2,
    "rope_parameters": MROPE,
    "hc_lowrank": 8,
    "ple_layer_ids": [1],
    "ple_embed_dim": 32,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 200,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": WINDOW,
    "indexer_compress_ratio": 4,
}
DOTS3 = {
    **LATENT,
    "head_dim": 16,
    "shared_experts_intermediate_size": 16,
    **GROUPS,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 2,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 12,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
INKLING = {
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
    "sliding_window_size": WINDOW,
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": HEAD,
    "d_rel": 4,
    "rel_extent": 64,
    "log_scaling_n_floor": WINDOW,
    "unpadded_vocab_size": VOCABULARY,
}
LLAMA4 = {
    "intermediate_size_mlp": 48,
    "attention_chunk_size": WINDOW,
    "interleave_moe_layer_step": 2,
    "num_experts_per_tok": 1,
    "floor_scale": WINDOW,
}
GEMMA4 = {
    "layer_types": SLIDING_FULL,
    "global_head_dim": 16,
    "final_logit_softcapping": 30.0,
}
