"""Pages of entering, of one's own account, and of people and audit for admins."""
