"""Networks and baselines: what predicts the next vector."""
