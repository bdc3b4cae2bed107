"""The languages that ComfyUI's nodes are translated to."""

from __future__ import annotations

import re

from skipstone.tools.node_texts import translations

LANGUAGES = translations()
HOSTS_NODES = {
    "zh": {
        "Load Checkpoint": "Checkpoint加载器（简易）",
        "Empty Latent Image": "空Latent图像",
        "Conditioning (Combine)": "条件合并",
        "CLIP Text Encode": "CLIP文本编码",
        "Preview Image": "预览图像",
        "Save Image": "保存图像",
        "VAE Encode": "VAE编码",
    },
    "ja": {
        "Load Checkpoint": "チェックポイントを読み込む",
        "Empty Latent Image": "空の潜在画像",
        "Conditioning (Combine)": "条件付け（組み合わせ）",
        "CLIP Text Encode": "CLIPテキストエンコード（プロンプト）",
        "Preview Image": "画像プレビュー",
        "Save Image": "画像を保存",
        "VAE Encode": "VAEエンコード",
    },
}
"""Names of ComfyUI's own nodes that our texts quote: English -> as ComfyUI shows them in a language."""


def numbers(text: str) -> set[str]:
    """The numbers in a text, as written."""
    return set(re.findall(r"\d+(?:\.\d+)?", text))
