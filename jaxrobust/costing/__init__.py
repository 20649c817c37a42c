"""What a sweep would cost, before it is launched."""
