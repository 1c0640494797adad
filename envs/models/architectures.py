"""What differs between architectures: a table, from which new models are made.

The rest of the project treats all models alike. Which head an architecture has is asked of
transformers; the table says what no one can ask: the family of its tokenizer and the names of its
sizes. What a few want when they are loaded and run is in ``quirks.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from envs.models.new_tokenizer import Family


class Of(Enum):
    """A setting that follows from the size of a model."""

    WIDTH = "width"
    HALF = "half"
    HEADS = "heads"
    HEAD = "head"
    """Width of one attention head."""
    INNER = "inner"
    LAYERS = "layers"
    SPREAD = "spread"
    """Standard deviation of the first weights, 1 / sqrt(width)."""
    EACH = "each"
    """One attention window (``WINDOW``) a layer."""
    POSITIONS = "positions"
    WINDOWS = "windows"
    """Positions for inputs padded to a multiple of ``WINDOW``."""
    VOCABULARY = "vocabulary"
    PAD = "pad"
    END = "end"


WINDOW = 64
"""Attention window and chunk length of the architectures that attend locally."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        title: as papers write it.
        model_type: as transformers calls it.
        tokenizer: family of its published tokenizers.
        settings: of a small configuration, by the configuration's own names.
        trap: what is done about its peculiarity, in one sentence.
    """

    title: str
    model_type: str
    tokenizer: Family = "wordpiece"
    settings: Mapping[str, Any] = field(default_factory=dict)
    trap: str = ""


_ENCODER: Mapping[str, Any] = {
    "hidden_size": Of.WIDTH,
    "num_hidden_layers": Of.LAYERS,
    "num_attention_heads": Of.HEADS,
    "intermediate_size": Of.INNER,
    "max_position_embeddings": Of.POSITIONS,
    # The usual 0.02 suits widths of thousands: a small model attends evenly for its first thousand
    # steps with it, and learns nothing of the context.
    "initializer_range": Of.SPREAD,
}
_ENCODER_DECODER: Mapping[str, Any] = {
    "d_model": Of.WIDTH,
    "encoder_layers": Of.LAYERS,
    "decoder_layers": Of.LAYERS,
    "encoder_attention_heads": Of.HEADS,
    "decoder_attention_heads": Of.HEADS,
    "encoder_ffn_dim": Of.INNER,
    "decoder_ffn_dim": Of.INNER,
    "max_position_embeddings": Of.POSITIONS,
    "decoder_start_token_id": Of.END,
    "forced_eos_token_id": Of.END,
    "init_std": Of.SPREAD,
}
_LED = {key: value for key, value in _ENCODER_DECODER.items() if key[:3] != "max"}

_TABLE = (
    Architecture("ALBERT", "albert", "unigram", {**_ENCODER, "embedding_size": Of.HALF}),
    Architecture("BART", "bart", "bpe", _ENCODER_DECODER),
    Architecture("BERT", "bert", "wordpiece", _ENCODER),
    Architecture(
        "BigBird",
        "big_bird",
        "unigram",
        _ENCODER,
        trap="full attention from the start: block-sparse attention cannot do short inputs, and "
        "the library would switch in the middle of a run",
    ),
    Architecture("CANINE", "canine", "bytes"),
    Architecture("ConvBERT", "convbert", "wordpiece", {**_ENCODER, "embedding_size": Of.WIDTH}),
    Architecture("CTRL", "ctrl", "bpe"),
    Architecture("Data2Vec", "data2vec-text", "bpe", _ENCODER),
    Architecture("DeBERTa", "deberta", "bpe", _ENCODER),
    Architecture("DeBERTa-v2", "deberta-v2", "unigram", _ENCODER),
    Architecture("Decision Transformer", "decision_transformer", "bpe"),
    Architecture("DistilBERT", "distilbert", "wordpiece", {**_ENCODER, "hidden_dim": Of.INNER}),
    Architecture("DPR", "dpr"),
    Architecture("ELECTRA", "electra", "wordpiece", {**_ENCODER, "embedding_size": Of.HALF}),
    Architecture(
        "FNet",
        "fnet",
        "unigram",
        _ENCODER,
        trap="knows no attention mask, so its states depend on the padding of a batch",
    ),
    Architecture(
        "FSMT",
        "fsmt",
        "moses",
        {
            **_ENCODER_DECODER,
            "langs": ["source", "target"],
            "src_vocab_size": Of.VOCABULARY,
            "tgt_vocab_size": Of.VOCABULARY,
        },
        trap="gets the decoder's input from us (alone it would feed the source to the decoder) and "
        "no cache in training (with one, its decoder looks ahead)",
    ),
    Architecture(
        "Funnel",
        "funnel",
        "wordpiece",
        {
            "d_model": Of.WIDTH,
            "n_head": Of.HEADS,
            "d_head": Of.HEAD,
            "d_inner": Of.INNER,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        trap="sizes are set by blocks; pooling makes its states depend a little on the padding",
    ),
    Architecture("GPT", "openai-gpt", "bpe"),
    Architecture("GPT-2", "gpt2", "bpe"),
    Architecture("GPT-Neo", "gpt_neo", "bpe"),
    Architecture(
        "I-BERT",
        "ibert",
        "bpe",
        _ENCODER,
        trap="refused with quant_mode: its running ranges are no weights, and no job could put "
        "them back",
    ),
    Architecture(
        "LED",
        "led",
        "bpe",
        {
            **_LED,
            "max_encoder_position_embeddings": Of.WINDOWS,
            "max_decoder_position_embeddings": Of.POSITIONS,
            "attention_window": Of.EACH,
        },
        trap="positions for the padding, too: its encoder pads inputs to whole windows; targets "
        "and contexts are no longer than its decoder takes",
    ),
    Architecture(
        "Longformer",
        "longformer",
        "bpe",
        {**_ENCODER, "attention_window": Of.EACH},
        trap="our own question-answering head, which needs no three separators",
    ),
    Architecture("LUKE", "luke", "bpe", {**_ENCODER, "entity_vocab_size": 8, "entity_emb_size": 8}),
    Architecture("mBART", "mbart", "unigram", _ENCODER_DECODER),
    Architecture("Megatron-BERT", "megatron-bert", "wordpiece", _ENCODER),
    Architecture("MPNet", "mpnet", "wordpiece", _ENCODER),
    Architecture(
        "Nyströmformer",
        "nystromformer",
        "unigram",
        _ENCODER,
        trap="as many landmarks as segments, which is exact attention: with fewer, the library "
        "can take no attention mask",
    ),
    Architecture("Pegasus", "pegasus", "unigram", _ENCODER_DECODER),
    Architecture(
        "Perceiver",
        "perceiver",
        "bytes",
        {
            "d_model": Of.WIDTH,
            "d_latents": Of.WIDTH,
            "qk_channels": Of.WIDTH,
            "v_channels": Of.WIDTH,
            "num_latents": 16,
            "num_self_attends_per_block": Of.LAYERS,
            "num_self_attention_heads": Of.HEADS,
            "num_cross_attention_heads": Of.HEADS,
            # At the usual 0.02 nothing of the input reaches the output of so small a model.
            "initializer_range": 0.2,
            "max_position_embeddings": Of.POSITIONS,
        },
        trap="inputs padded to its one length; the decoder's output stands for token states",
    ),
    Architecture(
        "ProphetNet",
        "prophetnet",
        "wordpiece",
        {
            "hidden_size": Of.WIDTH,
            "num_encoder_layers": Of.LAYERS,
            "num_decoder_layers": Of.LAYERS,
            "num_encoder_attention_heads": Of.HEADS,
            "num_decoder_attention_heads": Of.HEADS,
            "encoder_ffn_dim": Of.INNER,
            "decoder_ffn_dim": Of.INNER,
            "max_position_embeddings": Of.POSITIONS,
            "decoder_start_token_id": Of.END,
            "init_std": Of.SPREAD,
        },
        trap="the padding token has the id 0; the position bias of its predicting streams is "
        "computed here, since the library's lets a target see tokens to come",
    ),
    Architecture("QDQBERT", "qdqbert"),
    Architecture("RAG", "rag"),
    Architecture("REALM", "realm"),
    Architecture(
        "Reformer",
        "reformer",
        "unigram",
        {
            "hidden_size": Of.WIDTH,
            "num_attention_heads": Of.HEADS,
            "attention_head_size": Of.HEAD,
            "feed_forward_size": Of.INNER,
            "attn_layers": ["local", "lsh"],
            "local_attn_chunk_length": WINDOW,
            "lsh_attn_chunk_length": WINDOW,
            "max_position_embeddings": 8 * WINDOW,
            "initializer_range": Of.SPREAD,
            "axial_pos_embds": False,
            "is_decoder": False,
        },
        trap="inputs padded to a multiple of its chunks (all of them with axial positions)",
    ),
    Architecture(
        "RemBERT",
        "rembert",
        "unigram",
        {**_ENCODER, "input_embedding_size": Of.HALF, "output_embedding_size": Of.HALF},
    ),
    Architecture("RoBERTa", "roberta", "bpe", _ENCODER),
    Architecture("RoFormer", "roformer", "wordpiece", _ENCODER),
    Architecture("SegFormer", "segformer"),
    Architecture("Splinter", "splinter"),
    Architecture(
        "T5",
        "t5",
        "unigram",
        {
            "d_model": Of.WIDTH,
            "num_layers": Of.LAYERS,
            "num_heads": Of.HEADS,
            "d_kv": Of.HEAD,
            "d_ff": Of.INNER,
            "decoder_start_token_id": Of.PAD,
        },
        trap="where the tokenizer has no mask token, its first sentinel stands for it",
    ),
    Architecture("Transformer-XL", "transfo-xl"),
    Architecture(
        "XLM",
        "xlm",
        "moses",
        {
            "emb_dim": Of.WIDTH,
            "n_layers": Of.LAYERS,
            "n_heads": Of.HEADS,
            "max_position_embeddings": Of.POSITIONS,
            "init_std": Of.SPREAD,
            "embed_init_std": Of.SPREAD,
        },
    ),
    Architecture("XLNet", "xlnet", "unigram"),
    Architecture("YOSO", "yoso", "unigram", _ENCODER),
    Architecture("ModernBERT", "modernbert", "bpe", _ENCODER),
)

ARCHITECTURES: Mapping[str, Architecture] = {row.model_type: row for row in _TABLE}
