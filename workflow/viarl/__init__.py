"""Frame selection for video question answering, learned by reinforcement (ViaRL, arXiv 2505.15447)."""
