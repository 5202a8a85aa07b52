"""What the pipeline hands from step to step: artifacts, records, templates, sources, mixtures.

The lowest layer: it imports nothing of this project above it, and never torch.
"""
