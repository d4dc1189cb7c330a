"""How large an array should be: operations a joule of every size."""
