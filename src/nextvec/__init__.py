"""nextvec trains, guards and judges latent vector models."""
