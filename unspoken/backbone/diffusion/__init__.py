"""Models that write by denoising a canvas: masked diffusion, and DiffusionGemma."""

from unspoken.backbone.diffusion.canvas import CanvasModel
from unspoken.backbone.diffusion.gemma import DiffusionGemma
from unspoken.backbone.diffusion.layouts import DREAM, LLADA, Masked
from unspoken.backbone.diffusion.masked import DiffusionBackbone
from unspoken.backbone.diffusion.watching import Frame, watching

__all__ = [
    "DREAM",
    "LLADA",
    "CanvasModel",
    "DiffusionBackbone",
    "DiffusionGemma",
    "Frame",
    "Masked",
    "watching",
]
