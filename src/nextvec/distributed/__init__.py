"""The processes of a training run that torchrun started."""
