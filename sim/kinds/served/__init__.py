"""A trace of requests, replayed through the scheduler of a serving engine."""
