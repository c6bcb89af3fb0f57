"""Text to vectors to windows."""
