"""GRPO in rounds: rollouts, rewards, the trainer and the stages of a round."""
