"""NMG: learn which words a language model should be made to predict.

Importing this package registers the environments, so ``gymnasium.make("nmg:nmg/MaskQA-v0", ...)``
works. Torch and transformers are imported only by what needs them.
"""

import envs as _environments  # noqa: F401  (registers nmg/Mask*-v0)

__version__ = "0.1.0"
