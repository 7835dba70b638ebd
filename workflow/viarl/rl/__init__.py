"""Reinforcement learning of the selector: reward, advantages, shared-prefix log-probabilities, trainer."""
