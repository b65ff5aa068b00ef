"""Modular pipelines of diffusers, for whatever has no adapter of its own: folders, components, blocks, and typed ports."""

import os

# Set before the first import of the libraries, which a node may be: nothing is looked up on a hub, and nothing is said of
# packages that are not needed.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
