"""Pages of projects: `lists`, `new` (the wizard), `page` (one project, `shown` puts it together), `manage` (what is
done with it), `gates` (its stages), `deliverables`, `gallery` (templates), `engines`."""
