"""The network alone: jobs that issue collectives, without a model."""
