"""The web front: decides which requests are begun, before Django and its threads see them."""
