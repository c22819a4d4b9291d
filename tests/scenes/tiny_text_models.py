"""Models of transformers and sentence-transformers that read texts, small and with random weights.

Their tokenisers know WORDS, pieces of words and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = (
    "the", "a", "dog", "cat", "bird", "runs", "sleeps", "sings", "big", "small", "red", "park",
    "house", "in", "on", "snow", "man", "woman", "plays", "ball",
)  # fmt: skip
PIECES = ("##board", "##er", "##s")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
TEXTS = (
    "A dog runs in the park", "the small cat sleeps", "Snowboarder plays on snow , the dog",
    "a bird sings", "big  red house", "man", "a woman plays ball in the red house on the snow",
    "zebra", "the snowboarders",
)  # fmt: skip


def tokeniser() -> Any:
    """A tokeniser of words and pieces, in lower case, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS, *PIECES))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=16,
    )  # fmt: skip


def text_settings(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": len(SPECIAL) + len(WORDS) + len(PIECES),
        "max_position_embeddings": 16, **more,
    }  # fmt: skip


def bert(folder: Path) -> Any:
    """A BERT and its tokeniser, saved into the folder."""
    import transformers

    torch.manual_seed(0)
    settings = transformers.BertConfig(**text_settings(), initializer_range=0.5)
    model = transformers.BertModel(settings).eval()
    model.save_pretrained(folder)
    tokeniser().save_pretrained(folder)
    return model


def sentences(folder: Path, pooling: Any = "mean", dense: bool = False) -> Any:
    """A model of sentence-transformers around it, saved into the folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )

    bert(folder / "bert")
    torch.manual_seed(1)
    size = 16 * (1 if isinstance(pooling, str) else len(pooling))
    modules: list[Any] = [
        Transformer(str(folder / "bert"), max_seq_length=9),
        Pooling(16, pooling_mode=pooling),
    ]
    if dense:
        modules.append(Dense(size, 12, activation_function=torch.nn.Tanh()))
    model = SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
    model.save(str(folder / "model"))
    return model


def dual(kind: str, folder: Path) -> Any:
    """A CLIP or SigLIP of 24 or 16 features, with its tokeniser and preprocessing."""
    import transformers

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "clip":
        config = transformers.CLIPConfig(
            text_config=text_settings(**ids), vision_config=vision, projection_dim=24
        )
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config=text_settings(**ids), vision_config=vision)
        model = transformers.SiglipModel(config)
    for parameter in model.parameters():  # texts are near each other otherwise
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder)
    tokeniser().save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False
    )
    processor.save_pretrained(folder)
    return model
