"""Using a trained model: predict vectors, retrieve the next chunk, continue a text, and score a document."""
