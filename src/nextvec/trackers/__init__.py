"""Experiment trackers: TensorBoard, trackio, Weights & Biases and MLflow, behind one protocol of three methods."""
