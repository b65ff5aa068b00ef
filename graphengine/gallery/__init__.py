"""The gallery: every system of an introduction to diffusion as a workflow, its picture, and what is measured about it."""
