"""What a comparison of methods says: outcomes, curves, intervals, operating points, verdict, off-policy estimates."""
