"""eCLIP for open_clip: contrastive image-text training with expert heatmaps.

The method is that of Kumar and Marttinen, ECCV 2024. Importing this package registers the `eclip-*`
models with open_clip, and the image tower of the demo with timm, and does nothing else.
"""

from .attention.attend import attend
from .config import EClipConfig
from .register import register, unregister
from .version import __version__

__all__ = ["EClipConfig", "__version__", "attend", "register", "unregister"]

register()
