"""The nightly loop: new traffic, labels within a budget, a new version, and whether it takes the place of the old."""
