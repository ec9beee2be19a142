"""Small numbers for the families whose configuration holds others, as for images and sound."""

from __future__ import annotations

from typing import Any

from tests.zoo.sizes import (
    DOTS3,
    GEMMA4,
    HEADS,
    KV,
    LLAMA4,
    QWEN3_5,
    QWEN4_EXP,
    SLIDING_FULL,
    WIDTH,
    WINDOW,
)

_SMALL_IMAGE = {"image_size": 16, "patch_size": 4, "num_hidden_layers": 1}
_IMAGE_TOKENS = {"boi_token_id": 250, "eoi_token_id": 251, "image_token_id": 252}
_GEMMA4_TOKENS = {
    **_IMAGE_TOKENS,
    "video_token_id": 253,
    "boa_token_id": 254,
    "eoa_token_index": 255,
    "audio_token_id": 256,
    "audio_config": None,
}
_QWEN_TOKENS = {
    "image_token_id": 252,
    "video_token_id": 253,
    "vision_start_token_id": 250,
    "vision_end_token_id": 251,
}
_QWEN_IMAGE = {
    "depth": 1,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 16,
}

__all__ = ["PARTS"]

PARTS: dict[str, dict[str, Any]] = {
    "blt": {
        # Its cache is made with this number, which its configuration does not know by itself.
        "num_hidden_layers": 2,
        "encoder_hash_byte_group_vocab": 50,
        "local_attention_window_len": WINDOW,
        "encoder_config": {"hidden_size_global": WIDTH, "num_hidden_layers": 1},
        "decoder_config": {"hidden_size_global": WIDTH, "num_hidden_layers": 2},
        "global_config": {"num_hidden_layers": 2},
        "patcher_config": {"num_hidden_layers": 1},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": KV, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_top_k": 2},
    },
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {
            "num_hidden_layers": 1,
            "patch_size": 4,
            "adapter_in_dim": WIDTH,
            "adapter_out_dim": WIDTH,
            "mlp_layer_types": ["sparse"],
        },
        "audio_config": {
            "num_hidden_layers": 1,
            "feature_size": 16,
            "downsample_hidden_size": 8,
            "adapter_input_size": WIDTH,
            "adapter_out_dim": WIDTH,
        },
        "image_token_id": 252,
        "video_token_id": 253,
        "audio_token_id": 254,
    },
    "fuyu": {"patch_size": 4, "image_size": 16, "image_token_id": 252, "text_config": {}},
    "gemma3": {
        "text_config": {"layer_types": SLIDING_FULL, "query_pre_attn_scalar": 16},
        "vision_config": _SMALL_IMAGE,
        "mm_tokens_per_image": 4,
        "boi_token_index": 250,
        "eoi_token_index": 251,
        "image_token_index": 252,
    },
    # Large members of the family have experts, small ones inputs per layer and shared layers.
    "gemma4": {
        "text_config": {
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "top_k_experts": 2,
        },
        "vision_config": {
            "num_hidden_layers": 1,
            "num_key_value_heads": HEADS,
            "patch_size": 4,
            "position_embedding_size": 16,
        },
        **_GEMMA4_TOKENS,
    },
    "gemma4_unified": {
        "text_config": {**GEMMA4, "num_global_key_value_heads": 1},
        "vision_config": {
            "patch_size": 4,
            "mm_embed_dim": WIDTH,
            "mm_posemb_size": 16,
            "output_proj_dims": WIDTH,
        },
        **_GEMMA4_TOKENS,
    },
    "git": {"vision_config": _SMALL_IMAGE},
    "got_ocr2": {
        "text_config": {},
        "vision_config": {
            **_SMALL_IMAGE,
            "output_channels": 16,
            "mlp_dim": 48,
            "window_size": 2,
            "global_attn_indexes": [0],
        },
        "image_token_index": 252,
        "image_seq_length": 4,
    },
    "llama4": {"text_config": LLAMA4},
    "mllama": {"text_config": {"cross_attention_layers": [2]}},
    "moshi": {"audio_vocab_size": 64, "num_codebooks": 2},
    "moss_transcribe_diarize": {
        "text_config": {},
        "audio_config": {"num_hidden_layers": 1, "num_mel_bins": 8, "max_source_positions": 16},
        "audio_token_id": 252,
    },
    "phi4_multimodal": {
        "vision_config": {
            **_SMALL_IMAGE,
            "num_hidden_layers": 2,
            "crop_size": 16,
            "image_token_id": 252,
        },
        "audio_config": {
            "num_blocks": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "input_size": 16,
            "nemo_conv_channels": 16,
            "audio_token_id": 253,
        },
    },
    "qwen3_5": {"text_config": QWEN3_5, "vision_config": _QWEN_IMAGE, **_QWEN_TOKENS},
    "qwen3_5_moe": {"text_config": QWEN3_5, "vision_config": _QWEN_IMAGE, **_QWEN_TOKENS},
    "qwen4_exp": {"text_config": QWEN4_EXP, "vision_config": _QWEN_IMAGE, **_QWEN_TOKENS},
    "llava": {
        "text_config": {},
        "vision_config": {**_SMALL_IMAGE, "num_hidden_layers": 2},
        "image_token_index": 252,
        "image_seq_length": 16,
    },
    "qwen2_5_vl": {
        "text_config": {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
            },
        },
        "vision_config": {
            "depth": 2,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [1],
        },
        **_QWEN_TOKENS,
    },
}
