"""Django's database backend for MongoDB, with our client and with migrations that may be repeated."""
