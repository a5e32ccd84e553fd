"""The certificate authority, from the operator's side."""
