"""A trained model as an HTTP service: `nextvec serve`."""
