"""The API of accounts: who one is, keys, sessions, people, access and the audit log."""
