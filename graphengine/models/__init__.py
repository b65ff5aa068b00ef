"""Weights: finding them, telling what they are, loading them, keeping them.

`assets` and `checkpoint` read names, folders and headers and import no torch; `memory` holds the loaded networks;
`families/` has one adapter file per family of models.
"""
