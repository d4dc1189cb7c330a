"""Several models that serve requests on one pod."""
