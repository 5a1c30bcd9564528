"""eCLIP for open_clip: contrastive image-text training with expert heatmaps.

The method is that of Kumar and Marttinen, ECCV 2024. Importing this package registers the `eclip-*`
models with open_clip, and the image tower of the demo with timm, and does nothing else.
"""

from .open_clip_names import check_open_clip

check_open_clip()  # before the modules below import these names

from .attention.attend import attend  # noqa: E402
from .config import EClipConfig  # noqa: E402
from .register import register, unregister  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ["EClipConfig", "__version__", "attend", "register", "unregister"]

register()
