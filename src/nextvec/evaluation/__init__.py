"""Evaluation: a model and its baselines on the same windows, with confidence intervals over documents."""
