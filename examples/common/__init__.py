"""What the examples in Python share."""
