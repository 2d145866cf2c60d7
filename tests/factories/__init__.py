"""The smallest valid objects, one module a room. Tests say only what matters to them."""
