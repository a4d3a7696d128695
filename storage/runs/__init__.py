"""What belongs to one run: plan, journal, answers, labels, rollouts, recording."""
