"""Work in several processes: those of a training run that torchrun started, and those of a Ray cluster."""
