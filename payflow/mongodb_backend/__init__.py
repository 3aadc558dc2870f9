"""Django's database backend for MongoDB, with migrations that may be repeated after they died half-way."""
