"""Sign-in and tokens of the identity provider (OpenID Connect)."""
