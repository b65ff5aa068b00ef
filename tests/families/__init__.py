"""Every family of models against diffusers' own pipeline, on the same small random weights."""
