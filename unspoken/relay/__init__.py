"""The relay: one pair of models on one task, its trained parts and its pipelines."""
