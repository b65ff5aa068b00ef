"""The built-in nodes, one file per subject.  They are thin: the work is done in `graphengine.diffusion` and `graphengine.models`."""
