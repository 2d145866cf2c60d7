"""What runs produce: projects worked through stages into versioned, reviewed deliverables."""
