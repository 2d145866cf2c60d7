"""The roles of projects by engine, in the order of their stages."""

ROLES = {
    "crew-ai": ["Researcher", "Writer", "Planner"],
    "meta-gpt": ["Product Manager", "Architect", "Project Manager", "Engineer", "QA Engineer"],
}
