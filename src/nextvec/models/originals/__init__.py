"""The four networks as they were published, `variant = "original"`: the original trainer's weights fit them."""
