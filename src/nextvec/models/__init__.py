"""Networks and baselines that predict the next vector of a document."""
