"""Many runs of one scenario: which points there are, who computes them, where they are kept, and
what they say."""
